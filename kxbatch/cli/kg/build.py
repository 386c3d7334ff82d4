"""`kxbatch kg build`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kxbatch.cli.common import (
    all_overrides,
    json_option,
    loud,
    print_json,
    print_table,
    row_limit,
    volume_options,
)

if TYPE_CHECKING:
    from kxbatch.engine.result import RunResult

JOB = "kg"  # name of the job, by which an output knows that it is its own
MEANING = "meaning"
_COLUMNS = ("subject", "predicate", "object", MEANING)
_COUNTS = (
    "triples", "duplicates", "keys", "subjects", "predicates", "meanings", "objects", "keys_with_several_objects",
    "keys_with_several_spellings", "vocabulary", "bytes_per_key",
)  # fmt: skip


@click.command()
@click.argument("triples", nargs=-1, required=True)
@click.option("--output", required=True, metavar="DIR", help="Folder of the graph.")
@click.option(
    "--columns",
    metavar="S,P,O[,M]",
    help="Columns; absent: subject,predicate,object and, where a file has it, meaning.",
)
@click.option("--no-header", is_flag=True, help="CSV and TSV: no header line, --columns names the fields in order.")
@click.option("--tsv-quotes", is_flag=True, help="TSV: fields may stand in quotes.")
@click.option("--format", "format_", metavar="NAME", help="Format of every file; absent: by file name.")
@click.option("--keep-brackets", is_flag=True, help="Do not part subjects 'X（Y）' into subject and meaning.")
@click.option("--order", type=click.Choice(["spm", "smp"]), default="spm", show_default=True, help="Parts of a key.")
@click.option("--tokenizer", metavar="PATH", help="tokenizer.json, or a folder with one; absent: characters.")
@click.option("--pieces", type=click.IntRange(min=259), metavar="N", help="Word pieces in place of characters.")
@click.option("--vocabulary", type=click.IntRange(min=258), default=16_000, show_default=True, help="Characters.")
@click.option("--executor", type=click.Choice(["inline", "ray"]), help="Where to run; absent: in this process.")
@click.option("--address", help="Ray cluster to run on.")
@click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a key of the job; repeatable.")
@click.option("--limit", type=click.IntRange(min=1), help="Read only the first N rows, for a trial.")
@json_option
@volume_options
def command(
    triples: tuple[str, ...],
    sets: tuple[str, ...],
    executor: str | None,
    address: str | None,
    limit: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Build a graph from files, folders or globs of triples: TSV, CSV, N-Triples, JSONL, Parquet; .gz and .zst, too.

    It is a job of one stage: what was interrupted goes on, new and changed files are included and facts of files that are gone
    are dropped when the same command is given again, bad rows are set aside (`kxbatch quarantine show DIR`), and changes made
    with `kg add` and `kg delete` stay.

    \b
    Examples:
      kxbatch kg build triples.tsv --no-header --output out/graph
      kxbatch kg build dump.nt.gz --output out/graph --executor ray
      kxbatch kg build triples.parquet --columns s,p,o,sense --order smp --output out/graph
      kxbatch kg build triples.tsv --no-header --tokenizer model/ --set job.quarantine.max_rows=50000 --output out/graph
    """
    from kxbatch.api import run

    loud(verbose)
    overrides = all_overrides(sets, executor, address)
    job = job_of(triples, **options)
    if options["columns"] is None and MEANING in _input_columns(job, overrides):
        job["stage"][0]["meaning"] = MEANING
    result = run(job, overrides=overrides, limit=row_limit(limit), quiet=quiet, report=False)
    artifact = Path(result.output) / "graph" / "_artifact"
    counts = json.loads((artifact / "graph.json").read_bytes()) if result.exit_code == 0 else {}
    _show(result, str(artifact), counts, as_json)
    sys.exit(result.exit_code)


def job_of(
    triples: tuple[str, ...],
    *,
    output: str,
    columns: str | None,
    no_header: bool,
    tsv_quotes: bool,
    format_: str | None,
    keep_brackets: bool,
    order: str,
    tokenizer: str | None,
    vocabulary: int,
    pieces: int | None,
) -> dict[str, Any]:
    """The job that the arguments mean, as a job file would have it."""
    names = list(_COLUMNS[:3]) if columns is None else columns.split(",")
    if not 3 <= len(names) <= 4 or not all(names):
        raise click.BadParameter(f"{columns!r}: write three names or four with commas between: S,P,O or S,P,O,M")
    files: dict[str, Any] = {"path": list(triples), "types": "text", "tsv_quotes": tsv_quotes, "removed": "drop"}
    files |= {"names": names} if no_header else {}
    files |= {"format": format_} if format_ else {}
    stage: dict[str, Any] = {
        "kind": "graph",
        "order": order,
        "split_meaning": not keep_brackets,
        "vocabulary": vocabulary,
    }
    stage |= {"pieces": pieces} if pieces else {}
    stage |= dict(zip(_COLUMNS, names, strict=False)) | ({"tokenizer": tokenizer} if tokenizer else {})
    return {"job": {"name": JOB, "output": output, "executor": "inline"}, "input": files, "stage": [stage]}


def _input_columns(job: dict[str, Any], overrides: list[str]) -> frozenset[str]:
    from kxbatch.engine.corpus import input_columns
    from kxbatch.engine.job import load_job

    return input_columns(load_job(job, overrides=overrides))


def _show(result: RunResult, artifact: str, counts: dict[str, Any], as_json: bool) -> None:
    from kxbatch.cli.run import print_result, result_facts

    if as_json:
        print_json(result_facts(result) | {"artifact": artifact if counts else None, "graph": counts or None})
        return
    print_result(result)
    if counts:
        print_table(("graph", "count"), [(name.replace("_", " "), counts[name]) for name in _COUNTS])
        for spellings in counts["several_spellings"][:3]:
            click.echo(f"one key, several spellings: {'; '.join(' / '.join(parts) for parts in spellings)}")
        if rare := counts["characters_in_bytes"]:
            click.echo(f"{rare} characters have no token of their own and are spelled in bytes (--vocabulary)")
        if unknown := counts["unknown"]["strings"]:
            click.echo(
                f"the tokenizer lacks characters of {unknown} strings, such as {counts['unknown']['examples'][0]!r}"
            )
        click.echo(f"graph: {artifact}")
