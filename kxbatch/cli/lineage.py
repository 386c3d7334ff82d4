"""`kxbatch lineage`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, print_json, show, volume_options

if TYPE_CHECKING:
    from rich.tree import Tree

    from kxbatch.engine.lineage import Step


@click.command()
@click.argument("file", type=click.Path())
@json_option
@volume_options
def command(file: str, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Show where a part came from: stage by stage up to the source file, with model, fit, run and digest.

    \b
    Examples:
      kxbatch lineage out/corpus-audit/hubness/part-00000.parquet
      kxbatch lineage flat/part-00003.parquet --json
    """
    from kxbatch.engine.lineage import trace

    loud(verbose)
    step = trace(file)
    if as_json:
        print_json(asdict(step))
    else:
        print_lineage(step)


def print_lineage(step: Step) -> None:
    """The tree, the file asked about on top."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(_tree(step), markup=False, highlight=False)


def _tree(step: Step, tree: Tree | None = None) -> Tree:
    from rich.text import Text
    from rich.tree import Tree

    title = Text(f"{step.what} {step.name}: {step.file}" if step.name else f"{step.what}: {step.file}")
    branch = Tree(title) if tree is None else tree.add(title)
    for line in _lines(step):
        branch.add(Text(line))
    for above in step.made_from:
        _tree(above, branch)
    return branch


def _lines(step: Step) -> list[str]:
    facts = dict(step.facts)
    configuration = facts.pop("configuration", None)
    lines = [", ".join(f"{key} {show(value)}" for key, value in facts.items() if value != "")] if facts else []
    if configuration:
        lines.append("configuration " + ", ".join(f"{key}={value}" for key, value in configuration.items()))
    for name in ("receipt", "artifact"):
        values = getattr(step, name)
        if values:
            lines.append(f"{name}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    return lines + [f"note: {note}" for note in step.notes]
