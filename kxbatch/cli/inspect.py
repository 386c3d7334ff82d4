"""`kxbatch inspect`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, show, volume_options

if TYPE_CHECKING:
    from kxbatch.data.inspect import ColumnFacts, DatasetFacts


@click.command()
@click.argument("dataset", type=click.Path())
@click.option("-n", "count", type=click.IntRange(min=0), default=3, show_default=True, help="First rows to show.")
@json_option
@volume_options
def command(dataset: str, count: int, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Look at a dataset: columns, rows, nulls; of vectors: lengths, norms, NaN, zeros, mean cosine; the first rows.

    DATASET is a stage's folder, any folder of Parquet files, or one file. All rows are read, in bounded memory.

    \b
    Examples:
      kxbatch inspect out/corpus-audit/embed
      kxbatch inspect flat.parquet -n 1 --json
    """
    from kxbatch.data.inspect import inspect

    loud(verbose)
    facts = inspect(dataset, head=count)
    if as_json:
        print_json(asdict(facts))
    else:
        print_facts(facts)


def print_facts(facts: DatasetFacts) -> None:
    """Size, a table of columns, one of vectors, and the first rows."""
    from kxbatch.spec.sizes import format_size

    click.echo(f"{facts.path}: {show(facts.rows)} rows in {show(facts.parts)} parts, {format_size(facts.bytes)}")
    print_table(("column", "type", "nulls"), [(c.name, c.type, c.nulls) for c in facts.columns])
    vectors = [column for column in facts.columns if column.vector]
    if vectors:
        columns = ("vectors", "length", "norm min", "mean", "max", "mean cosine", "zero", "NaN", "infinite", "null")
        click.echo()
        print_table(columns, [_vector_row(column) for column in vectors])
    if facts.head:
        click.echo()
        print_table(list(facts.head[0]), [[shorten(value) for value in row.values()] for row in facts.head])
    for note in facts.notes:
        click.echo(f"note: {note}")


def _vector_row(column: ColumnFacts) -> tuple[Any, ...]:
    v = column.vector
    assert v is not None
    length = v.dim if v.dim is not None else ", ".join(f"{dim} ({count})" for dim, count in v.lengths.items()) or "-"
    return (column.name, length, v.norm_min, v.norm_mean, v.norm_max, v.mean_cosine, v.zero, v.nan, v.infinite, v.null)


def shorten(value: Any, most: int = 40) -> str:
    """A value in a table: the first numbers of a list, the beginning of a text."""
    if isinstance(value, list):
        items = [shorten(item, 12) for item in value[:3]]
        return f"[{', '.join([*items, '...'] if len(value) > 3 else items)}]"
    text = (
        f"{value:.4g}"
        if isinstance(value, float)
        else value
        if isinstance(value, str)
        else json.dumps(value, default=str)
    )
    return text if len(text) <= most else text[: most - 3] + "..."
