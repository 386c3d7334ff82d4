"""Rows of an `extract` stage for an evaluation: texts, the spans that are right there, and the spans that were found.

Letters: N texts, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.filesystems import absolute
from kxbatch.data.inspect import dataset_files
from kxbatch.data.parts import open_part
from kxbatch.data.row_groups import read_row_groups
from kxbatch.data.span_columns import FlatSpans
from kxbatch.data.storage import File
from kxbatch.engine.span_columns import Rows, joined
from kxbatch.errors import DataError, nearest

ID = "id"


@dataclass(frozen=True)
class Columns:
    """Where things stand.

    Attributes:
        gold: column of the right spans.
        found: column of the found ones.
        text: column of the texts that both are of.
        split: value of `split_column` that a row must have; None for every row.
        split_column: column that tells the parts of a dataset.
    """

    gold: str = "labels"
    found: str = "entities"
    text: str = "text"
    split: str | None = None
    split_column: str = "split"

    @property
    def needed(self) -> list[str]:
        """Columns that must be there."""
        return [self.text, self.gold, self.found, *([] if self.split is None else [self.split_column])]


@dataclass(frozen=True, eq=False)
class SpanRows:
    """What is evaluated.

    Attributes:
        source: where it was read.
        ids: [N]; None where the rows have none.
        texts: large_string [N].
        gold: the right spans.
        found: the spans that were found.
        unlabelled: rows that were left out because nobody said what is right there (null; an empty list says: nothing).
    """

    source: str
    ids: pa.Array | None
    texts: pa.LargeStringArray
    gold: FlatSpans
    found: FlatSpans
    unlabelled: int

    def __len__(self) -> int:
        return len(self.texts)


def read_span_rows(path: str, columns: Columns) -> SpanRows:
    """Reads the output of an `extract` stage, or any Parquet with texts and two columns of spans.

    Args:
        path: folder of Parquet files, or one file.
        columns: where things stand; the type of the spans is that of `FlatSpans.read`.

    Raises:
        ConfigError: nothing to read there.
        DataError: it cannot be read, lacks a column, has no rows, or a span is none of its text; names the file and the row.
    """
    files, _ = dataset_files(absolute(path, None))
    tables = [(file, _table(file, columns)) for file in files]
    parts = [_part(file, table, columns) for file, table in tables if table.num_rows]
    unlabelled = sum(part.unlabelled for part in parts)
    if not parts:
        raise DataError(f"{path}: no rows{_splits(files, columns)}")
    if unlabelled == sum(table.num_rows for _, table in tables):
        raise DataError(
            f"{path}: column {columns.gold!r} is null in all {unlabelled} rows, so nothing says what is right"
        )
    ids = [part.ids for part in parts if part.ids is not None]
    firsts = np.cumsum([0, *map(len, parts)]).tolist()[:-1]
    return SpanRows(
        path,
        pa.concat_arrays([one.cast(ids[0].type) for one in ids]) if len(ids) == len(parts) else None,
        pa.concat_arrays([part.texts for part in parts]),
        joined([part.gold for part in parts], firsts),
        joined([part.found for part in parts], firsts),
        unlabelled,
    )


def _table(file: File, columns: Columns) -> pa.Table:
    """What is needed of a file; rows of the split alone."""
    with open_part(file) as part:
        names = part.schema_arrow.names
        for name in columns.needed:
            if name not in names:
                copied = "" if name == columns.found else "; a stage copies the columns of its input that `keep` names"
                has = f"it has {', '.join(names)}{nearest(name, names)}"
                raise DataError(f"{file}: no column {name!r}; {has}{copied}")
        table = read_row_groups(part, [*([ID] if ID in names else []), *dict.fromkeys(columns.needed)])
    if columns.split is None:
        return table
    return table.filter(pc.equal(_texts(file, table, columns.split_column), columns.split))


def _part(file: File, table: pa.Table, columns: Columns) -> SpanRows:
    labelled = table.filter(pc.is_valid(table[columns.gold]))
    ids = labelled[ID].combine_chunks() if ID in labelled.column_names else None
    rows = Rows(str(file), ids, _texts(file, labelled, columns.text))
    gold, found = (labelled[name].combine_chunks() for name in (columns.gold, columns.found))
    for name, column, words in (
        (columns.text, rows.texts, "no text"),
        (columns.found, found, "null, where an empty list says that nothing was found"),
    ):
        at = pc.index(pc.is_null(column), True).as_py()
        if at >= 0:
            raise DataError(f"{rows.words(at, name)}: {words}")
    spans = rows.spans(columns.gold, gold), rows.spans(columns.found, found, scored=True)
    return SpanRows(str(file), ids, rows.texts, *spans, table.num_rows - labelled.num_rows)


def _texts(file: File, table: pa.Table, name: str) -> pa.LargeStringArray:
    column = table[name].combine_chunks()
    try:
        return pc.cast(column, pa.large_string())
    except pa.ArrowException:
        raise DataError(f"{file}: column {name!r} is {column.type}, texts are wanted") from None


def _splits(files: Sequence[File], columns: Columns) -> str:
    """What splits there are, where one was asked for in vain."""
    if columns.split is None:
        return ""
    held: set[str | None] = set()
    for file in files:
        with open_part(file) as part:
            table = part.read(columns=[columns.split_column])
        held |= set(_texts(file, table, columns.split_column).unique().to_pylist())
    names = sorted(name for name in held if name is not None)
    return f" of split {columns.split!r}; it has {', '.join(names[:10]) or 'none'}{nearest(columns.split, names)}"
