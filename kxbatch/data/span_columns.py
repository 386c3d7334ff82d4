"""A column of spans as flat arrays, and what in it cannot be right: one reader and one set of rules for whoever reads spans.

A span that is none is the fault of its row alone. Only a column that holds something else is refused as a whole.

Letters: R rows, S spans of all rows one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.spans import KEYS, is_list
from kxbatch.errors import DataError, nearest

SHAPE = "list<struct<start: int32, end: int32, type: string>>"
REASONS = ("span-incomplete", "span-inverted", "span-out-of-range")
Longs = npt.NDArray[np.int64]
_ABSENT, _MOST = np.iinfo(np.int64).min, np.iinfo(np.int64).max  # no offset; one that int64 does not hold (uint64)


@dataclass(frozen=True, eq=False)
class FlatSpans:
    """Spans of all rows, one after the other.

    Attributes:
        rows: int64 [S], ascending.
        starts: int64 [S], in code points.
        ends: int64 [S], exclusive.
        types: large_string [S].
        scores: float64 [S], NaN where there is none.
    """

    rows: Longs
    starts: Longs
    ends: Longs
    types: pa.LargeStringArray
    scores: npt.NDArray[np.float64]

    @classmethod
    def read(cls, column: pa.Array | pa.ChunkedArray, name: str, *, scored: bool = False) -> FlatSpans:
        """The spans of a column, right or not; a null row has none.

        Args:
            column: [R], lists of structs with `start`, `end` (integers of any width), `type` (text) and whatever else; lists
                that are all empty may be of anything, for a writer that saw no span (pandas, JSON) could not know of what.
            name: of the column.
            scored: also read the field `score`, if there is one.

        Raises:
            DataError: it holds something else.
        """
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_null(lists.type) or (is_list(lists.type) and not len(lists.flatten())):
            empty = np.empty(0, np.int64)
            return cls(empty, empty, empty, pa.array([], pa.large_string()), np.empty(0))
        wanted = (*KEYS, "score") if scored else KEYS
        kinds = _fields(lists.type, name, wanted)
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
        values = pc.list_flatten(lists)
        starts, ends = (_offsets(pc.struct_field(values, field)) for field in KEYS[:2])
        scores = np.full(len(values), np.nan)
        if scored and "score" in kinds:
            scores = pc.struct_field(values, "score").cast(pa.float64()).to_numpy(zero_copy_only=False)
        return cls(
            np.repeat(np.arange(len(lists)), lengths), starts, ends, _names(pc.struct_field(values, "type")), scores
        )

    def of_rows(self, chosen: npt.NDArray[np.bool_]) -> FlatSpans:
        """Those of some rows, which are numbered anew; `chosen` is bool [R]."""
        kept, numbers = chosen[self.rows], np.cumsum(chosen) - 1
        rows, starts, ends = (one[kept] for one in (numbers[self.rows], self.starts, self.ends))
        return FlatSpans(rows, starts, ends, self.types.filter(pa.array(kept)), self.scores[kept])


@dataclass(frozen=True)
class Fault:
    """What is wrong with a row.

    Attributes:
        reason: a short name for counting, of `REASONS`.
        words: for people.
    """

    reason: str
    words: str


def faults(spans: FlatSpans, lengths: npt.NDArray[Any]) -> dict[int, Fault]:
    """Rows with a span that cannot be right; of several such spans of a row the first is told.

    Args:
        spans: of R rows.
        lengths: integers [R], code points of the texts.
    """
    incomplete = (spans.starts == _ABSENT) | (spans.ends == _ABSENT)
    incomplete |= pc.fill_null(pc.equal(spans.types, ""), True).to_numpy(zero_copy_only=False)
    inverted = spans.starts >= spans.ends
    outside = (spans.starts < 0) | (spans.ends > lengths[spans.rows])
    wrong = np.flatnonzero(incomplete | inverted | outside)
    rows, first = np.unique(spans.rows[wrong], return_index=True)
    numbers = np.select([incomplete, inverted, outside], [0, 1, 2], -1)
    found = zip(rows.tolist(), wrong[first].tolist(), strict=True)
    return {row: _fault(spans, at, int(numbers[at]), int(lengths[row])) for row, at in found}


def _fault(spans: FlatSpans, at: int, number: int, length: int) -> Fault:
    offsets, name = (int(spans.starts[at]), int(spans.ends[at])), spans.types[at].as_py()
    if number == 0:
        missing = next((field for field, value in zip(KEYS, offsets, strict=False) if value == _ABSENT), None)
        if missing is not None:
            return Fault(REASONS[0], f"a span without {missing}")
        if name is None:
            return Fault(REASONS[0], "a span without type (null, or not UTF-8)")
    start, end = (f"{_MOST} or more" if value == _MOST else value for value in offsets)
    told = f"span [{start}, {end}) of type {name!r}"
    if number == 0:
        return Fault(REASONS[0], f"{told}: a type has a name")
    why = "is empty or inverted" if number == 1 else f"is not in its text of {length} code points"
    return Fault(REASONS[number], f"{told} {why}; offsets count code points from 0 on, the end is exclusive")


def _fields(kind: pa.DataType, name: str, wanted: tuple[str, ...]) -> dict[str, pa.DataType]:
    """Types of the fields of a span."""
    struct = is_list(kind) and pa.types.is_struct(kind.value_type)
    found = {field.name: field.type for field in kind.value_type} if struct else {}
    missing = [field for field in KEYS if field not in found]
    if missing:
        near = nearest(missing[0], found)
        raise DataError(f"column '{name}' is {kind}; spans are {SHAPE}, with ends exclusive{near}")
    for field in wanted:
        if field in found and not _will_do(field, found[field]):
            sort = {"type": "text", "score": "a number"}.get(field, "an integer")
            raise DataError(
                f"column '{name}': {field} is {found[field]}, {sort} is wanted; spans are {SHAPE}, with ends exclusive"
            )
    return found


def _will_do(field: str, kind: pa.DataType) -> bool:
    if pa.types.is_null(kind):
        return True  # absent in every span
    if field == "type":
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))
    return bool(pa.types.is_integer(kind) or (field == "score" and pa.types.is_floating(kind)))


def _offsets(column: pa.Array) -> Longs:
    """int64 [S]; what int64 does not hold becomes its largest number."""
    if pa.types.is_uint64(column.type):
        column = pc.min_element_wise(column, pa.scalar(_MOST, pa.uint64()), skip_nulls=False)
    return np.asarray(pc.fill_null(column.cast(pa.int64()), _ABSENT).to_numpy(zero_copy_only=False))


def _names(column: pa.Array) -> pa.LargeStringArray:
    """Types; null where they are not UTF-8."""
    names = column.cast(pa.large_string())
    try:
        names.validate(full=True)
    except pa.ArrowInvalid:
        return pa.array([_decoded(name) for name in names.cast(pa.large_binary()).to_pylist()], pa.large_string())
    return names


def _decoded(name: bytes | None) -> str | None:
    try:
        return None if name is None else name.decode()
    except UnicodeDecodeError:
        return None
