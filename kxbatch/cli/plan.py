"""`kxbatch plan`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import (
    all_overrides,
    job_argument,
    job_options,
    json_option,
    loud,
    print_json,
    print_table,
    row_limit,
    show,
    volume_options,
)

if TYPE_CHECKING:
    from kxbatch.engine.plan import Plan


@click.command()
@job_argument
@job_options
@json_option
@volume_options
def command(
    job: str,
    sets: tuple[str, ...],
    executor: str | None,
    address: str | None,
    limit: int | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Show what a run would do, and why; change nothing.

    Units are shards, and pairs and lists of blocks where a stage compares rows. `pending` ones are new, `stale` ones were done
    from something that has changed since.

    \b
    Examples:
      kxbatch plan jobs/corpus_audit.toml
      kxbatch plan job.toml --set whiten.beta=0.5 --json
    """
    from kxbatch.api import plan

    loud(verbose)
    found = plan(job, overrides=all_overrides(sets, executor, address), limit=row_limit(limit))
    if as_json:
        print_json(asdict(found) | {"to_do": found.to_do})
    else:
        print_plan(found)


def print_plan(plan: Plan) -> None:
    """The input, a table of phases, and what it adds up to."""
    from kxbatch.spec.sizes import format_size

    size = format_size(plan.bytes)
    found = f"{show(plan.files)} files, {show(plan.shards)} shards, {show(plan.rows)} rows, {size}"
    click.echo(f"{plan.job}: {found if plan.files else 'no input'}")
    rows = [
        (p.stage, p.phase, p.total, p.done, p.pending, p.stale, p.rows, format_size(p.bytes), reasons(p.reasons))
        for p in plan.phases
    ]
    print_table(("stage", "phase", "units", "done", "pending", "stale", "rows to read", "bytes", "why"), rows)
    for stage, resources in plan.resources.items():
        click.echo(f"{stage}: {resources}")
    for note in plan.notes:
        click.echo(f"note: {note}")
    click.echo(f"{show(plan.to_do)} units to do" if plan.to_do else "nothing to do: everything is done already")
    click.echo(f"output: {plan.output}")


def reasons(counts: dict[str, int]) -> str:
    """`new (3), input changed (1)`."""
    return ", ".join(f"{reason} ({count})" for reason, count in counts.items())
