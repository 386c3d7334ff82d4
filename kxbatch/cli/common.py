"""Options and printing that verbs share."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def job_argument(function: Function) -> Function:
    """`JOB`, the path of a job file."""
    return click.argument("job", type=click.Path())(function)


def output_argument(function: Function) -> Function:
    """`OUTPUT`, the folder that `job.output` names."""
    return click.argument("output", type=click.Path())(function)


def job_options(function: Function) -> Function:
    """`--set`, `--executor`, `--address` and `--limit`."""
    options = [
        click.option("--set", "sets", multiple=True, metavar="STAGE.KEY=VALUE", help="Override a key; repeatable."),
        click.option("--executor", type=click.Choice(["inline", "ray"]), help="Where to run."),
        click.option("--address", help="Ray cluster to run on; absent: a local one."),
        click.option("--limit", type=click.IntRange(min=1), help="Read, or make, only the first N rows, for a trial."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def json_option(function: Function) -> Function:
    """`--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")(function)


def volume_options(function: Function) -> Function:
    """`-q` and `-v`."""
    function = click.option("-q", "--quiet", is_flag=True, help="No progress.")(function)
    return click.option("-v", "--verbose", is_flag=True, help="Tracebacks, too.")(function)


def run_options(function: Function) -> Function:
    """What verbs that run a job take beside `job_options`: `--no-report`, `--json`, `-q` and `-v`."""
    function = json_option(volume_options(function))
    return click.option("--no-report", is_flag=True, help="Do not build report.html.")(function)


def all_overrides(sets: Sequence[str], executor: str | None, address: str | None) -> list[str]:
    """Overrides in order of precedence: environment, then `--set`, then the named options."""
    found = []
    for key in ("executor", "address"):
        if value := os.environ.get(f"KXBATCH_{key.upper()}"):
            found.append(f"job.{key}={value}")
    found += list(sets)
    found += [f"job.executor={executor}"] if executor else []
    found += [f"job.address={address}", "job.executor=ray"] if address else []
    return found


def row_limit(limit: int | None) -> int | None:
    """`--limit`, or else `KXBATCH_LIMIT`."""
    value = os.environ.get("KXBATCH_LIMIT")
    if limit is None and value:
        if not value.isdigit() or int(value) < 1:
            raise click.UsageError(f"KXBATCH_LIMIT={value}: write a number of rows, 1 or more")
        return int(value)
    return limit


def loud(verbose: bool) -> None:
    """`-v`: unexpected errors come with their traceback."""
    if verbose:
        os.environ["KXBATCH_TRACEBACK"] = "1"


def print_json(facts: Any) -> None:
    """Facts on standard output."""
    click.echo(json.dumps(facts, indent=2, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """A table on standard output; numbers to the right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(show(value)) for value in row))
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)


def show(value: Any) -> str:
    """A value for people."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
