"""`kxbatch doctor`."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.engine.machine import Finding


@click.command()
@click.option("--ray", is_flag=True, help="Start Ray, too (some seconds).")
@click.option("--address", help="Connect to this Ray cluster, and run a task there.")
@json_option
@volume_options
def command(ray: bool, address: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Check this machine: versions, CPU, BLAS, memory, disk, torch, Ray; what is wrong, and the mend.

    Exit status 1 if something will not work. With -q only what is wrong is shown.

    \b
    Examples:
      kxbatch doctor
      kxbatch doctor --address ray://head:10001
    """
    from kxbatch.engine.machine import examine

    loud(verbose)
    findings = list(examine(ray=ray, address=address))
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_findings(findings, quiet=quiet)
    sys.exit(1 if any(finding.level == "fail" for finding in findings) else 0)


def print_findings(findings: list[Finding], *, quiet: bool) -> None:
    """A table, and how many of each level."""
    shown = [finding for finding in findings if not quiet or finding.level != "ok"]
    if shown:
        print_table(("", "what", "found", "mend"), [(f.level, f.name, f.fact, f.mend) for f in shown])
    counts = Counter(finding.level for finding in findings)
    click.echo(f"{counts['fail']} will not work, {counts['warn']} could be better, {counts['ok']} fine")
