"""`kxbatch run`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kxbatch.cli.common import (
    all_overrides,
    job_argument,
    job_options,
    loud,
    print_json,
    print_table,
    row_limit,
    run_options,
)

if TYPE_CHECKING:
    from kxbatch.engine.result import RunResult


@click.command()
@job_argument
@job_options
@run_options
def command(job: str, **options: Any) -> None:
    """Run or resume a job: whatever is already done is kept, whatever is new or changed is done.

    \b
    Examples:
      kxbatch run jobs/corpus_audit.toml
      kxbatch run job.toml --executor inline --limit 1000
      kxbatch run job.toml --set whiten.dim=128 --set job.output=out/trial
    """
    perform(job, **options)


def perform(
    job: str,
    *,
    sets: tuple[str, ...],
    executor: str | None,
    address: str | None,
    limit: int | None,
    no_report: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    training_only: bool = False,
    sampling_only: bool = False,
) -> None:
    """Run a job as the options say, tell what it came to, and end with its status."""
    from kxbatch.api import run
    from kxbatch.data.storage import Folder
    from kxbatch.report import PAGE

    loud(verbose)
    result = run(
        job,
        overrides=all_overrides(sets, executor, address),
        limit=row_limit(limit),
        quiet=quiet,
        report=not no_report,
        training_only=training_only,
        sampling_only=sampling_only,
    )
    samples = {"samples": sampled(result)} if sampling_only else {}
    page = Folder(result.output).file(PAGE)
    report = page.path if page.size() is not None else None
    if as_json:
        print_json(result_facts(result) | samples | {"report": report})
    else:
        print_result(result)
        for path in samples.get("samples", []):
            click.echo(f"samples: {path}")
        if report:
            click.echo(f"report: {report}")
    sys.exit(result.exit_code)


def sampled(result: RunResult) -> list[str]:
    """Folders of the stages that made their rows."""
    from kxbatch.data.storage import Folder
    from kxbatch.spec.model import NOTHING

    return [Folder(result.output).child(stage.name).path for stage in result.stages if stage.upstream == NOTHING]


def result_facts(result: RunResult) -> dict[str, object]:
    """A run as JSON values."""
    return {
        "status": result.status,
        "exit_code": result.exit_code,
        "message": result.message,
        "output": result.output,
        "seconds": round(result.seconds, 3),
        "stages": [{k: v for k, v in vars(stage).items() if k != "units"} for stage in result.stages],
        "failures": [{"phase": f.phase, "key": f.key, "error": f.error, "message": f.message} for f in result.failures],
        "warnings": result.warnings,
    }


def print_result(result: RunResult) -> None:
    """One table of stages, and what is wrong if anything is."""
    columns = ("stage", "shards", "failed", "rows in", "rows out", "set aside", "seconds", "rows/s")
    rows = [
        (s.name, s.shards, s.failed, s.rows_in, s.rows_out, s.rows_quarantined, s.seconds, s.rows_per_second)
        for s in result.stages
    ]
    if rows:
        print_table(columns, rows)
    words = {"unchanged": "nothing to do: everything is done already", "done": "done"}
    click.echo(f"{words.get(result.status, result.status)} in {result.seconds:.1f} s: {result.output}")
    if result.message:
        click.echo(f"error: {result.message}", err=True)
