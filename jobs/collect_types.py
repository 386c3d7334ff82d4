"""Write a corpus of Chinese names with as many types as one asks for, to a Parquet file.

    python jobs/collect_types.py --corpus msra.parquet --types 30 --limit 12000 --output types-30.parquet

The corpus is what `collect_msra.py` wrote, with three types. They are split by one character of the name: a person by the first
one, which is the family name of a Chinese, a place and an organisation by the last one, which says what it is (`省`, `河`, `队`,
`银行`). Pairs of type and character are counted in the training sentences that are kept. The most frequent K - 3 of them are types
of their own, `LOC-国`, whichever of the three they belong to; what is left of a type keeps its name. So there are K types, and
three are the corpus as it was. Of pairs that are equally frequent the first in the order of their names counts.

The types are made, and a model that finds the name sees what decides: they measure what many types cost, not how hard types are
to tell apart. Spans and sentences are the same for every K, in the order of the corpus. Which sentences are kept is drawn by a hash
of the text, so that a smaller draw lies within a larger one. Sentences that are neither for training nor for testing are left out.

Columns are those of the corpus. Without the corpus nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import Counter
from pathlib import Path

import polars as pl
from collecting import all_there, read_msra, write_table

DECIDES = {"PER": 0, "LOC": -1, "ORG": -1}  # where the character stands in a name
DRAWN = ("train", "test")

Pair = tuple[str, str]  # a type of the corpus and a character
Name = tuple[int, int, Pair]  # start, end


def read(path: Path) -> pl.DataFrame:
    """The corpus.

    Raises:
        SystemExit: it is no Parquet file, lacks columns, or has other types.
    """
    rows = read_msra(path)
    other = set(rows["labels"].explode().drop_nulls().struct.field("type")) - set(DECIDES)
    if other:
        raise SystemExit(f"{path} has types {', '.join(sorted(other))}; they should be {', '.join(DECIDES)}")
    return rows


def drawn(rows: pl.DataFrame, split: str, limit: int | None) -> pl.DataFrame:
    """Sentences of a split: those whose texts have the smallest hashes, in the order of the corpus."""
    found = rows.filter(pl.col("split") == split)
    if limit is None or limit >= len(found):
        return found
    order = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in found["text"]]
    return found[sorted(sorted(range(len(found)), key=order.__getitem__)[:limit])]


def names(rows: pl.DataFrame) -> list[list[Name]]:
    """Spans of every sentence, each with what decides on its type."""
    return [
        [
            (one["start"], one["end"], (one["type"], text[one["start"] : one["end"]][DECIDES[one["type"]]]))
            for one in labels
        ]
        for text, labels in rows.select("text", "labels").iter_rows()
    ]


def own_types(learned: list[list[Name]], types: int) -> dict[Pair, str]:
    """Pairs that are a type of their own, and its name.

    Args:
        learned: spans of the training sentences.
        types: how many there shall be, with one of what is left for each type of the corpus.

    Raises:
        SystemExit: the sentences do not have so many.
    """
    seen = Counter(pair for sentence in learned for _, _, pair in sentence)
    ranked = sorted(seen, key=lambda pair: (-seen[pair], pair))
    own = {pair: "-".join(pair) for pair in ranked[: types - len(DECIDES)]}
    made = len({own.get(pair, pair[0]) for pair in seen})
    if types < len(DECIDES) or made != types:
        raise SystemExit(f"{types} types cannot be made of these sentences: at least 3, and fewer than {len(seen)}")
    return own


def split_types(rows: pl.DataFrame, types: int) -> pl.DataFrame:
    """The sentences, with finer types."""
    found = names(rows)
    own = own_types([spans for spans, train in zip(found, rows["train"], strict=True) if train], types)
    labels = [
        [{"start": start, "end": end, "type": own.get(pair, pair[0])} for start, end, pair in spans] for spans in found
    ]
    return rows.with_columns(labels=pl.Series(labels, dtype=rows.schema["labels"]))


def main() -> None:
    """Parse the command line and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True, help="what collect_msra.py wrote")
    parser.add_argument("--types", type=int, required=True, help="how many types; 3: those of the corpus")
    parser.add_argument("--limit", type=int, help="training sentences; absent: all")
    parser.add_argument("--test", type=int, help="test sentences; absent: all")
    parser.add_argument("--output", type=Path, required=True, help="Parquet file to write")
    arguments = parser.parse_args()
    if not all_there(arguments.corpus):
        return
    rows = read(arguments.corpus)
    limits = (arguments.limit, arguments.test)
    kept = pl.concat(drawn(rows, split, limit) for split, limit in zip(DRAWN, limits, strict=True))
    table = split_types(kept, arguments.types)
    write_table(table, arguments.output)
    counts = Counter(table.filter("train")["labels"].explode().drop_nulls().struct.field("type"))
    least, rarest = min((count, name) for name, count in counts.items())
    print(
        f"{len(table)} sentences, {table['train'].sum()} of them for training, with {counts.total()} spans of "
        f"{len(counts)} types; the rarest, {rarest}, has {least} -> {arguments.output}"
    )


if __name__ == "__main__":
    main()
