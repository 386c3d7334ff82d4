"""`kxbatch report`."""

from __future__ import annotations

import click

from kxbatch.cli.common import json_option, loud, output_argument, print_json, volume_options


@click.command()
@output_argument
@click.option("--open", "show_it", is_flag=True, help="Open it in the browser.")
@json_option
@volume_options
def command(output: str, show_it: bool, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Build report.html of an output, again if need be; one file, to look at or to send.

    \b
    Example:
      kxbatch report out/corpus-audit --open
    """
    import webbrowser
    from pathlib import Path

    from kxbatch.api import build_report

    loud(verbose)
    path = build_report(output)
    if as_json:
        print_json({"report": path})
    else:
        click.echo(path)
    if show_it and not webbrowser.open(path if "://" in path else Path(path).as_uri()) and not quiet:
        click.echo("no browser here; copy the file to where one is", err=True)
