"""`kxbatch compact`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kxbatch.cli.common import json_option, loud, print_json, show, volume_options


@click.command()
@click.argument("dataset", type=click.Path())
@click.option("--target-size", default="256MB", show_default=True, help="Bytes a part aims at.")
@json_option
@volume_options
def command(dataset: str, target_size: str, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Rewrite many small parts of a flat dataset, such as an export, into few; in place, in one step.

    Rows and their order stay. Readers see the old parts or the new ones, never both; killed, it leaves the dataset whole.

    \b
    Example:
      kxbatch compact flat --target-size 256MB
    """
    from kxbatch.engine.compact import compact
    from kxbatch.spec.sizes import format_size, parse_size

    loud(verbose)
    try:
        size = parse_size(target_size)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--target-size") from None
    result = compact(dataset, size)
    if as_json:
        print_json(asdict(result))
    elif result.parts_after == result.parts_before:
        click.echo(f"nothing to do: no neighbouring parts fit into {format_size(size)} together: {result.path}")
    else:
        click.echo(f"{result.parts_before} parts are {result.parts_after} now, {show(result.rows)} rows: {result.path}")
