"""Gold spans as an Arrow column: `list<struct<start, end, type>>`, offsets in code points, ends exclusive.

Letters: R rows, S spans of all rows one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.spans import KEYS, SPANS, is_spans
from kxbatch.errors import DataError, nearest

SHAPE = "list<struct<start: int32, end: int32, type: string>>"
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """Spans of R rows.

    Attributes:
        rows: int64 [S], the row of each; ascending.
        starts: int64 [S], first character.
        ends: int64 [S], one past the last.
        types: string [S], null where it was.
        null: bool [R], rows that have no list, not even an empty one.
    """

    rows: Longs
    starts: Longs
    ends: Longs
    types: pa.Array
    null: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, column: pa.ChunkedArray, name: str) -> Labels:
        """Of a column.

        Raises:
            DataError: it holds something else.
        """
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        kind = lists.type
        if pa.types.is_null(kind):
            return cls(*_no_spans(), pa.array([], pa.string()), np.ones(len(lists), bool))
        if _only_empty(lists):
            lists = pa.array([None if row is None else [] for row in lists.to_pylist()], SPANS)
        elif not is_spans(kind):
            raise DataError(f"column '{name}' is {kind}; spans are {SHAPE}, with ends exclusive")
        null = lists.is_null().to_numpy(zero_copy_only=False)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        spans = lists.flatten()
        starts, ends = (pc.fill_null(spans.field(f).cast(pa.int64()), -1).to_numpy() for f in KEYS[:2])
        types = spans.field("type").cast(pa.string())
        return cls(np.repeat(np.arange(len(lists)), lengths), starts, ends, types, null)

    def take(self, spans: npt.NDArray[Any]) -> Labels:
        """Some of the spans, of the same rows; `spans` is a bool mask."""
        chosen = self.types.filter(pa.array(spans))
        return Labels(self.rows[spans], self.starts[spans], self.ends[spans], chosen, self.null)

    def numbers(self, types: tuple[str, ...]) -> Longs:
        """The number of each span's type, int64 [S]; -1 for others."""
        found = pc.fill_null(pc.index_in(self.types, pa.array(types, pa.string())), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)


def flaws(
    labels: Labels, lengths: Longs, column: str, types: tuple[str, ...] | None
) -> tuple[npt.NDArray[Any], dict[str, str]]:
    """Rows whose spans cannot be right.

    Args:
        labels: of R rows.
        lengths: int64 [R], characters of the texts.
        column: name of the column, for the words.
        types: those that are known; None: all are.

    Returns:
        object [R], the reason of each row, empty for the good ones; the reasons' words.
    """
    reasons = np.full(len(lengths), "", object)
    words: dict[str, str] = {}

    def blame(spans: npt.NDArray[np.bool_], reason: str, told: str) -> None:
        reasons[labels.rows[spans]] = reason
        words[reason] = told

    if types is not None:
        unknown = labels.numbers(types) < 0
        if unknown.any():
            blame(unknown, "unknown-type", _unknown(labels.types.filter(pa.array(unknown)), column, types))
    elif labels.types.null_count:
        blame(labels.types.is_null().to_numpy(zero_copy_only=False), "unknown-type", f"column '{column}': a null type")
    far = (labels.starts < 0) | (labels.ends > lengths[labels.rows])
    blame(far, "span-out-of-range", f"column '{column}': a span begins before its text or ends after it")
    blame(labels.starts >= labels.ends, "span-inverted", f"column '{column}': a span ends where it begins, or before")
    reasons[labels.null] = "null-labels"
    words["null-labels"] = f"column '{column}' is null; a text without entities has an empty list"
    return reasons, words


def _unknown(found: pa.Array, column: str, types: tuple[str, ...]) -> str:
    first = found.drop_null()
    name = str(first[0]) if len(first) else "null"
    return f"column '{column}': type '{name}'; known are {', '.join(types)}{nearest(name, types)}"


def _only_empty(lists: pa.Array) -> bool:
    """Whether nothing is in any list: of what, a writer that saw no span could not know (pandas, JSON)."""
    listed = pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)
    return listed and not len(lists.flatten())


def _no_spans() -> tuple[Longs, Longs, Longs]:
    empty = np.empty(0, np.int64)
    return empty, empty, empty
