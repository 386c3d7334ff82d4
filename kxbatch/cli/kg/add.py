"""`kxbatch kg add`."""

from __future__ import annotations

from pathlib import Path

import click

from kxbatch.cli.common import loud
from kxbatch.cli.kg.changing import change_graph, change_options, read_changes


@click.command()
@change_options
def command(
    graph: Path,
    subject: str | None,
    predicate: str | None,
    meaning: str | None,
    object_: str | None,
    file: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Add facts to a graph; they can be retrieved at once.

    They are written to a journal beside the graph, which every reader of it applies, and which stays when it is built again.
    A file has one fact a line: JSON objects, or subject, predicate, object and, if needed, meaning with tabs between.
    All facts of a call are added, or none.

    \b
    Examples:
      kxbatch kg add out/graph --subject 'Great Wall' --predicate length --object '21,196 km'
      kxbatch kg add out/graph --subject Mercury --meaning planet --predicate moons --object 0
      kxbatch kg add out/graph --from new-facts.tsv
    """
    loud(verbose)
    made = read_changes("add", file, subject=subject, predicate=predicate, meaning=meaning, object_=object_)
    change_graph(graph, made, as_json)
