"""`kxbatch quarantine`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, output_argument, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.engine.result import RunResult


@click.group()
def command() -> None:
    """Rows that were set aside: list, show, replay.

    \b
    Examples:
      kxbatch quarantine ls out/corpus-audit
      kxbatch quarantine show out/corpus-audit --error empty-text -n 5
      kxbatch quarantine replay out/corpus-audit
    """


@command.command("ls")
@output_argument
@json_option
@volume_options
def list_reasons(output: str, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Count the rows set aside, by stage and error.

    \b
    Example:
      kxbatch quarantine ls out/corpus-audit
    """
    from kxbatch.api import open as open_output
    from kxbatch.report.quarantine import reasons

    loud(verbose)
    found = open_output(output)
    counts = reasons(found.folder, found.stages)
    if as_json:
        print_json([{"stage": r.stage, "error": r.error, "rows": r.rows} for r in counts])
    elif counts:
        columns = ("stage", "error", "rows", "for example")
        print_table(columns, [(r.stage, r.error, r.rows, r.examples[0]["message"]) for r in counts])
    else:
        click.echo(f"no rows were set aside: {found.folder.path}")


@command.command("show")
@output_argument
@click.option("--stage", help="Only of this stage.")
@click.option("--error", help="Only of this type.")
@click.option("-n", "count", type=click.IntRange(min=1), default=20, show_default=True, help="Rows to show.")
@json_option
@volume_options
def show_rows(
    output: str, stage: str | None, error: str | None, count: int, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Show rows set aside: id, shard, row, why, and how the row began.

    \b
    Example:
      kxbatch quarantine show out/corpus-audit --stage embed --error empty-text -n 5
    """
    from kxbatch.api import open as open_output
    from kxbatch.engine.replay import set_aside

    loud(verbose)
    table = set_aside(open_output(output), stage=stage, error=error)
    rows = table.slice(0, count).to_pylist()
    if as_json:
        print_json({"rows": table.num_rows, "shown": rows})
        return
    columns = ("stage", "shard", "row", "id", "error", "message", "raw")
    if rows:
        print_table(columns, [tuple(row[name] for name in columns) for row in rows])
    if not quiet:
        click.echo(f"{len(rows)} of {table.num_rows} rows", err=True)


@command.command("replay")
@click.argument("source", metavar="OUTPUT|JOB", type=click.Path())
@click.option("--stage", help="Only shards of this stage.")
@json_option
@volume_options
def replay(source: str, stage: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Do the shards again of which rows were set aside, and whatever follows from them.

    For when the cause is mended: a model, a service, a limit. A mended input file needs no replay, `kxbatch run` sees it.
    Given an output, the job is the one of its last run. What else is pending is done, too.

    \b
    Example:
      kxbatch quarantine replay out/corpus-audit
    """
    from kxbatch.cli.run import print_result, result_facts

    loud(verbose)
    result = _replay(source, stage, quiet)
    if result is None:
        if as_json:
            print_json({"status": "unchanged", "exit_code": 0, "message": "no rows were set aside", "stages": []})
        else:
            click.echo(f"no rows were set aside, nothing to replay: {source}")
        return
    if as_json:
        print_json(result_facts(result))
    else:
        print_result(result)
    sys.exit(result.exit_code)


def _replay(source: str, stage: str | None, quiet: bool) -> RunResult | None:
    """The run, None where there is nothing to replay."""
    from kxbatch.api import JobSource, load_job, run
    from kxbatch.api import open as open_output
    from kxbatch.engine.replay import recorded_job, shards_with_quarantine

    is_job = source.endswith(".toml") and not Path(source).is_dir()
    output = open_output(load_job(source).output.path if is_job else source)
    redo = shards_with_quarantine(output, stage)
    if not redo:
        return None
    job: JobSource = source
    if not is_job:
        job, base = recorded_job(output)
        os.chdir(base)  # relative paths of the job start from where it was run
    return run(job, quiet=quiet, redo=redo)
