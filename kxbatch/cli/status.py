"""`kxbatch status`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, output_argument, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.engine.status import Status


@click.command()
@output_argument
@json_option
@volume_options
def command(output: str, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show the state of a run, live or finished: what is done, who runs it, the last errors, what to do next.

    \b
    Examples:
      kxbatch status out/corpus-audit
      watch -n 2 kxbatch status out/corpus-audit
    """
    from kxbatch.engine.status import status

    loud(verbose)
    found = status(output)
    if as_json:
        print_json(asdict(found))
    else:
        print_status(found)


def print_status(found: Status) -> None:
    """One line on the run, a table, and what is wrong."""
    code = "" if found.exit_code is None else f", exit status {found.exit_code}"
    click.echo(f"{found.state}{code}: run {found.run} in {found.output}")
    click.echo(f"started {found.started or '-'}, ended {found.ended or '-'}")
    if found.state == "running" and found.holder:
        who = found.holder
        click.echo(f"on {who['host']}, process {who['pid']}, last heartbeat {who['heartbeat']}")
    if found.stages:
        columns = ("stage", "shards", "failed", "rows in", "rows out", "set aside", "seconds")
        keys = ("name", "shards", "failed", "rows_in", "rows_out", "rows_quarantined", "seconds")
        print_table(columns, [tuple(stage[key] for key in keys) for stage in found.stages])
    elif found.phases:
        names = ("stage", "phase", "units", "done", "failed", "rows")
        print_table(names, [tuple(phase[name] for name in names) for phase in found.phases])
    if found.message:
        click.echo(f"message: {found.message}")
    for line in found.errors:
        click.echo(f"error: {line}")
    if found.defects:
        click.echo(f"{found.defects} defective unit(s) on record")
    if found.next:
        click.echo(f"next: {found.next}")
