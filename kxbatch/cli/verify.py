"""`kxbatch verify`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, output_argument, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.engine.verify import Verification

DEFECTS = 3


@click.command()
@output_argument
@click.option("--stage", help="Only this stage.")
@json_option
@volume_options
def command(output: str, stage: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Re-read everything an output claims to have: every file's bytes, rows and columns against its receipt.

    Exit status 3 if anything is wrong. Defects stay on record, and the next `kxbatch run` of the job does those units again.

    \b
    Examples:
      kxbatch verify out/corpus-audit
      kxbatch verify out/corpus-audit --stage embed --json
    """
    from kxbatch.engine.verify import verify

    loud(verbose)
    found = verify(output, stage=stage)
    if as_json:
        print_json(asdict(found))
    else:
        print_verification(found, quiet=quiet)
    sys.exit(DEFECTS if found.defects else 0)


def print_verification(found: Verification, *, quiet: bool) -> None:
    """A table of what was read, and a line for each defect."""
    from kxbatch.spec.sizes import format_size

    columns = ("stage", "receipts", "bytes", "rows", "set aside")
    print_table(columns, [(s.stage, s.receipts, format_size(s.bytes), s.rows, s.quarantined) for s in found.stages])
    for defect in found.defects:
        click.echo(f"defect: {'/'.join(part for part in (defect.stage, defect.file) if part)}: {defect.problem}")
    click.echo(f"{len(found.defects)} defect(s): {found.output}" if found.defects else f"sound: {found.output}")
    if quiet or not found.defects:
        return
    if not found.recorded:
        click.echo("the output cannot be written, so the defects are not on record for the next run", err=True)
    elif any(defect.key for defect in found.defects):
        click.echo("`kxbatch run` with the job makes these files again; then verify once more", err=True)
