"""`kxbatch kg`: one file a verb, loaded when it is used."""

from __future__ import annotations

import click

from kxbatch.cli.lazy import LazyGroup

VERBS = {
    "build": "Build a graph from triples.",
    "add": "Add facts to a graph, without building it again.",
    "delete": "Delete facts from a graph, without building it again.",
    "ask": "Ask a graph a question.",
    "split": "Split questions by whole predicates or subjects.",
    "eval": "Compare ways of answering questions with a graph.",
}


@click.group(cls=LazyGroup, package="kxbatch.cli.kg", verbs=VERBS)
def command() -> None:
    """Graphs of facts, from which answers are retrieved by generating their keys.

    \b
    Examples:
      kxbatch kg build triples.tsv --no-header --output out/graph
      kxbatch kg add out/graph --subject 'Great Wall' --predicate length --object '21,196 km'
      kxbatch kg delete out/graph --subject 'Great Wall' --predicate length
      kxbatch kg ask out/graph 'how long is the Great Wall?' --model MODEL
    """
