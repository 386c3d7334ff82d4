"""`kxbatch kg delete`."""

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
    """Delete facts from a graph; they cannot be retrieved any more, at once.

    Without an object everything that a key says goes, with one that alone. What is to be deleted must be there, else nothing is
    changed. A file has one fact a line, as for `kg add`; a line without an object deletes the key.

    \b
    Examples:
      kxbatch kg delete out/graph --subject 'Great Wall' --predicate length --object '21,196 km'
      kxbatch kg delete out/graph --subject Mercury --meaning planet --predicate moons
      kxbatch kg delete out/graph --from wrong-facts.jsonl
    """
    loud(verbose)
    made = read_changes("delete", file, subject=subject, predicate=predicate, meaning=meaning, object_=object_)
    change_graph(graph, made, as_json)
