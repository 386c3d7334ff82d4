"""`kxbatch kg split`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, show, volume_options


@click.command()
@click.argument("questions", type=click.Path(path_type=Path))
@click.option("--by", type=click.Choice(["predicate", "subject"]), required=True, help="What no two parts share.")
@click.option("--valid", default=0.1, show_default=True, help="Share of the groups for validation.")
@click.option("--test", default=0.1, show_default=True, help="Share of the groups for the test.")
@click.option("--seed", default=0, show_default=True, help="Another one splits otherwise.")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="Folder for the three files.")
@json_option
@volume_options
def command(
    questions: Path,
    by: Literal["predicate", "subject"],
    valid: float,
    test: float,
    seed: int,
    output: Path,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Split questions into train.parquet, valid.parquet and test.parquet by whole predicates, or whole subjects.

    A random split would ask in the test what was learned in training. A group falls into its part by a hash of its
    name, so it stays there when rows are added. QUESTIONS is a Parquet, JSONL, CSV or TSV file.

    \b
    Example:
      kxbatch kg split questions.parquet --by predicate --output out/questions
    """
    from kxbatch.engine.question_split import PARTS, Shares, split_questions

    loud(verbose)
    split = split_questions(questions, output, by, Shares(valid, test), seed)
    if as_json:
        print_json(asdict(split))
        return
    total = sum(split.rows.values())
    rows = [
        [part, split.rows[part], f"{split.rows[part] / total:.1%}", split.groups[part], split.paths[part]]
        for part in PARTS
    ]
    print_table(["part", "questions", "share", f"{by}s", "file"], rows)
    if not quiet:
        share = split.largest_rows / total
        click.echo(f"largest {by}: {split.largest!r}, {show(split.largest_rows)} questions, {share:.1%} of all")
