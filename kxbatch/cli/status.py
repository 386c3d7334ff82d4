"""`kxbatch status`."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

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
        print_table(("stage", "phase", "done", "of", "failed", "rows"), [_phase_row(phase) for phase in found.phases])
    for line in training_lines(found):
        click.echo(line)
    if found.message:
        click.echo(f"message: {found.message}")
    for line in found.errors:
        click.echo(f"error: {line}")
    if found.defects:
        click.echo(f"{found.defects} defective unit(s) on record")
    if found.next:
        click.echo(f"next: {found.next}")


def training_lines(found: Status) -> list[str]:
    """A line for each training of the run: how it ended, or its last loss, its speed and the time left."""
    notes = {stage["name"]: stage.get("note") for stage in found.stages}
    lines = []
    for phase in found.phases:
        if phase["phase"] != "train":
            continue
        words = notes.get(phase["stage"]) or _training_words(phase, running=found.state == "running")
        if words:
            lines.append(f"{phase['stage']}: {words}")
    return lines


def _training_words(phase: dict[str, Any], *, running: bool) -> str:
    """Empty before the first line of a training."""
    if phase.get("loss") is None:
        return ""
    words = f"loss {phase['loss']:.4f} at step {phase['done']}, {phase.get('tokens_per_second') or 0:,.0f} tokens/s"
    left = phase.get("seconds_left")
    return f"{words}, {timedelta(seconds=round(left))} left" if running and left else words


def _phase_row(phase: dict[str, Any]) -> tuple[Any, ...]:
    kind = "steps" if phase["phase"] == "train" else "units"
    of = f"{phase['units'] or '?'} {kind}" if kind == "steps" else f"{phase['units']} {kind}"
    rows = "" if kind == "steps" else phase["rows"]
    return phase["stage"], phase["phase"], phase["done"], of, phase["failed"], rows
