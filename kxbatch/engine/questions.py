"""Files of questions with their answers: Parquet, JSONL, CSV or TSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.errors import ConfigError, DataError, nearest
from kxbatch.models.graph.text import split_meaning

COLUMNS = ("question", "subject", "predicate", "object")
READERS: dict[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".jsonl": lambda path: pl.read_ndjson(path, infer_schema_length=None),
    ".csv": lambda path: pl.read_csv(path, infer_schema=False).fill_null(""),
    ".tsv": lambda path: pl.read_csv(path, separator="\t", infer_schema=False).fill_null(""),
}


@dataclass(frozen=True)
class Questions:
    """Questions and what they ask for, N of them.

    Attributes:
        texts: the questions.
        subjects: names, without meanings.
        predicates: one each.
        meanings: "" where the subject has none; None where the file does not say whether it has one.
        objects: right answers of each, one or more.
    """

    texts: list[str]
    subjects: list[str]
    predicates: list[str]
    meanings: list[str | None]
    objects: list[list[str]]

    def __len__(self) -> int:
        return len(self.texts)


def read_questions(path: Path, split: str | None = None, limit: int | None = None) -> Questions:
    """Reads questions with their answers.

    A subject `X（Y）` is X with the meaning Y where no column `meaning` says another one; where there is neither, the
    meaning is not known, and any is right.

    Args:
        path: a file with the columns question, subject, predicate, object (a text, or a list of texts of which each is
            right) and, if the meanings are known, meaning.
        split: only the rows that have this value in the column `split`.
        limit: only the first so many.

    Raises:
        ConfigError: no such file, or of no format that is read.
        DataError: it cannot be read, lacks a column, has no rows, none of the split, or one without a text where one is needed.
    """
    rows = read_rows(path, COLUMNS if split is None else (*COLUMNS, "split"))
    if split is not None:
        rows = _of_split(path, rows, split)
    rows = rows if limit is None else rows.slice(0, limit)
    names, within = split_meaning(text_column(path, rows, "subject"))
    told = "meaning" in rows.column_names
    said = text_column(path, rows, "meaning", nulls=True).to_pylist() if told else [None] * rows.num_rows
    return Questions(
        text_column(path, rows, "question").to_pylist(),
        names.to_pylist(),
        text_column(path, rows, "predicate").to_pylist(),
        [given if given is not None else split or None for given, split in zip(said, within.to_pylist(), strict=True)],
        _objects(path, rows["object"]),
    )


def read_rows(path: Path, columns: Sequence[str]) -> pa.Table:
    """All columns of a file of rows.

    Args:
        path: Parquet, JSONL, CSV or TSV, by its ending.
        columns: those it must have.

    Raises:
        ConfigError: no such file, or of no format that is read.
        DataError: it cannot be read, lacks a column, or has no rows.
    """
    reader = READERS.get(path.suffix)
    if reader is None:
        raise ConfigError(f"{path}: a file of questions ends in {', '.join(READERS)}{nearest(path.suffix, READERS)}")
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    try:
        rows = reader(path).to_arrow(compat_level=pl.CompatLevel.oldest())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]}: {str(error).splitlines()[0]}") from None
    _refuse_missing(path, rows, columns)
    if not rows.num_rows:
        raise DataError(f"{path}: has no rows")
    return rows


def _of_split(path: Path, rows: pa.Table, split: str) -> pa.Table:
    found = rows.filter(pc.equal(rows["split"].cast(pa.large_string()), split))
    if not found.num_rows:
        splits = rows["split"].cast(pa.large_string()).unique().drop_null().to_pylist()
        raise DataError(f"{path}: no rows of split {split!r}, it has {', '.join(splits[:10])}{nearest(split, splits)}")
    return found


def _refuse_missing(path: Path, rows: pa.Table, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in rows.column_names]
    if missing:
        words = "".join(nearest(name, rows.column_names) for name in missing)
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(rows.column_names)}{words}")


def text_column(path: Path, rows: pa.Table, name: str, *, nulls: bool = False) -> pa.Array:
    """A column of texts, large_string [N].

    Args:
        path: the file, for words.
        rows: of the file.
        name: of the column.
        nulls: whether a text may be missing.

    Raises:
        DataError: the column has something else than texts, or a row has none; names it.
    """
    column = rows[name].combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type) or pa.types.is_null(column.type)):
        raise DataError(f"{path}: column {name} is {column.type}, texts are wanted")
    if column.null_count and not nulls:
        raise DataError(f"{path}: row {pc.index(pc.is_null(column), True).as_py()} has no {name}")
    return column.cast(pa.large_string())


def _objects(path: Path, column: pa.ChunkedArray) -> list[list[str]]:
    values: list[Any] = column.to_pylist()
    listed = [[value] if isinstance(value, str) else value for value in values]
    for row, texts in enumerate(listed):
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: row {row} has the object {values[row]!r}: a text, or a list of one or more texts")
    return listed
