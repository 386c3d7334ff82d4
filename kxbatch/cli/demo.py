"""`kxbatch demo`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from kxbatch.cli.common import volume_options

ROWS = 10_000


@click.command()
@click.option("--rows", type=click.IntRange(min=50), default=ROWS, show_default=True, help="Docstrings to take.")
@click.option("--executor", type=click.Choice(["inline", "ray"]), default="ray", show_default=True)
@volume_options
def command(rows: int, executor: str, quiet: bool, verbose: bool) -> None:
    """Run the main job on real text: the docstrings of the packages installed beside kxbatch.

    Collects the corpus into out/demo, embeds it with the packaged MiniLM encoder, whitens it, audits the neighbour graph before and
    after, and ends with the five numbers that matter and the path of the report. Run it again: nothing is done twice.

    \b
    Example:
      kxbatch demo --rows 2000
    """
    from kxbatch.api import run
    from kxbatch.cli.common import loud
    from kxbatch.cli.run import print_result
    from kxbatch.cli.templates import jobs_folder

    loud(verbose)
    corpus = Path("out/demo/docstrings.jsonl")
    if not _has_rows(corpus, rows):
        script = jobs_folder() / "collect_docstrings.py"
        subprocess.run([sys.executable, str(script), "--output", str(corpus), "--limit", str(rows)], check=True)
    result = run(jobs_folder() / "demo.toml", overrides=[f"job.executor={executor}"], quiet=quiet)
    report = Path(result.output) / "report.html"
    print_result(result)
    if result.exit_code == 0:
        for line in _numbers(Path(result.output)):
            click.echo(line)
        click.echo(f"report: {report}")
    sys.exit(result.exit_code)


def _has_rows(corpus: Path, rows: int) -> bool:
    """Whether the corpus of an earlier demo can serve; it is not collected twice, so that a second run has nothing to do."""
    if not corpus.exists():
        return False
    with corpus.open("rb") as file:
        return sum(1 for _ in file) == rows


def _numbers(output: Path) -> list[str]:
    """The five numbers that matter."""
    before, after = (_facts(output, stage) for stage in ("hubness-before", "hubness"))
    raw, white = before["raw"], after["raw"]
    return [
        f"rows: {raw['n']:,}",
        f"skewness of N_k: {raw['skewness']:.2f} before whitening, {white['skewness']:.2f} after",
        f"largest hub: in {raw['max_k_occurrence']:,} lists before, {white['max_k_occurrence']:,} after",
        f"never found: {raw['antihub_share']:.1%} of the rows before, {white['antihub_share']:.1%} after",
        f"mean cosine: {before['mean_cosine']:.3f} before, {after['mean_cosine']:.3f} after",
    ]


def _facts(output: Path, stage: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((output / stage / "_artifact" / "hubness.json").read_text(encoding="utf-8"))
    return facts
