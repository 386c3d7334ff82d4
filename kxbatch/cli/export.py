"""`kxbatch export`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kxbatch.cli.common import json_option, loud, output_argument, print_json, show, volume_options


@click.command()
@output_argument
@click.option("--to", "target", required=True, type=click.Path(), help="Folder, or .parquet/.jsonl/.csv file.")
@click.option("--columns", metavar="A,B", help="Columns to write besides id; absent: all.")
@click.option("--format", "format_", metavar="FORMAT", help="parquet, jsonl or csv; absent: by the name of the target.")
@click.option("--overwrite", is_flag=True, help="Replace Parquet files or a file that this output did not write.")
@json_option
@volume_options
def command(
    output: str,
    target: str,
    columns: str | None,
    format_: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Join the stages of an output into one flat dataset: a row for each row of the corpus, all stages' columns.

    A folder gets one Parquet part a shard; an earlier export of the same output is replaced as a whole. A single file is
    for up to a million rows; in JSONL and CSV vectors are JSON lists.

    \b
    Examples:
      kxbatch export out/corpus-audit --to flat
      kxbatch export out/corpus-audit --to hubs.csv --columns text,k_occurrence,is_hub
    """
    from kxbatch.api import open as open_output
    from kxbatch.engine.export import export

    loud(verbose)
    opened = open_output(output)
    status = opened.record["status"]
    if status not in ("done", "unchanged") and not quiet:
        click.echo(f"the last run is {status}: what is not finished is not in the export", err=True)
    names = [name.strip() for name in columns.split(",")] if columns else None
    result = export(opened, target, columns=names, format=format_, overwrite=overwrite)
    if as_json:
        print_json(asdict(result))
    else:
        click.echo(f"{show(result.rows)} rows in {show(result.parts)} file(s): {result.path}")
        click.echo(f"columns: {', '.join(result.columns)}")
