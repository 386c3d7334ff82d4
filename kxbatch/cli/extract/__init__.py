"""`kxbatch extract`: one file a verb, loaded when it is used."""

from __future__ import annotations

import click

from kxbatch.cli.lazy import LazyGroup

VERBS = {
    "eval": "Measure found entities against the right ones.",
}


@click.group(cls=LazyGroup, package="kxbatch.cli.extract", verbs=VERBS)
def command() -> None:
    """Entities that a stage of kind `extract` found in texts.

    \b
    Examples:
      kxbatch extract eval out/ner/extract --split test --output out/evaluation
      kxbatch extract eval out/ner/extract out/ner/crf --split test
    """
