"""Columns of spans: a list a text, each with `start`, `end` (code points of the text, exclusive) and `type`.

Letters: R texts, S spans of all texts one after another.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.errors import DataError, nearest

Ints = npt.NDArray[np.int32]
Span = tuple[int, int, str]

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
KEYS = ("start", "end", "type")


@dataclass(frozen=True)
class FlatSpans:
    """Spans of R texts.

    Attributes:
        rows: int32 [S], the text of each, never falling.
        starts: int32 [S], first code point.
        ends: int32 [S], one past the last.
        types: string [S].
    """

    rows: Ints
    starts: Ints
    ends: Ints
    types: pa.StringArray


def is_spans(kind: pa.DataType) -> bool:
    """Whether a column type holds spans; integers of any width, types as text or dictionary, and further fields will do."""
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_struct(kind.value_type):
        return False
    inner = {field.name: field.type for field in kind.value_type}
    if not inner.keys() >= set(KEYS):
        return False
    type_ = inner["type"].value_type if pa.types.is_dictionary(inner["type"]) else inner["type"]
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return bool(text and pa.types.is_integer(inner["start"]) and pa.types.is_integer(inner["end"]))


def is_span(value: Any) -> bool:
    """Whether a JSON value is a span; it may have further keys."""
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int for key in ("start", "end"))
        and isinstance(value.get("type"), str)
    )


def to_spans(found: Sequence[Sequence[Span] | None]) -> pa.Array:
    """A column of spans from (start, end, type) tuples; null for None."""
    return pa.array(
        [None if row is None else [dict(zip(KEYS, span, strict=True)) for span in row] for row in found], SPANS
    )


def flat_spans(column: pa.ChunkedArray | pa.Array, name: str) -> FlatSpans:
    """The spans of a column; a null has none, as an empty list has.

    Args:
        column: lists of R texts.
        name: what messages call the column.

    Raises:
        DataError: the column holds no spans, or one without start, end or type.
    """
    array = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    if not is_spans(array.type):
        raise DataError(
            f"column '{name}' has type {array.type}; spans are needed: list<struct<start: int32, end: int32, type: string>>"
        )
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    rows = np.repeat(np.arange(len(array), dtype=np.int32), lengths)
    inner = pa.concat_arrays([pa.array([], array.type.value_type), *(pc.list_flatten(chunk) for chunk in array.chunks)])
    start, end, type_ = (pc.struct_field(inner, key) for key in KEYS)
    for key, values in zip(KEYS, (start, end, type_), strict=True):
        if values.null_count:
            row = int(rows[np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]])
            raise DataError(f"column '{name}': row {row} has a span without {key}; every span has start, end and type")
    types = type_.dictionary_decode() if pa.types.is_dictionary(type_.type) else type_
    return FlatSpans(rows, _to_int32(start, name), _to_int32(end, name), types.cast(pa.string()))


def span_faults(spans: FlatSpans, lengths: npt.NDArray[np.int64], types: Collection[str]) -> dict[int, str]:
    """What is wrong with the spans of texts.

    Args:
        spans: of R texts.
        lengths: int64 [R], code points of each text.
        types: that there may be.

    Returns:
        The first reason of each text that has one.
    """
    faults: dict[int, str] = {}
    outside = (spans.starts < 0) | (spans.ends > lengths[spans.rows]) | (spans.starts >= spans.ends)
    known = pc.is_in(spans.types, pa.array(sorted(types), pa.string())).to_numpy(zero_copy_only=False)
    for at in np.flatnonzero(outside | ~known).tolist():
        start, end, type_, row = (
            int(spans.starts[at]),
            int(spans.ends[at]),
            spans.types[at].as_py(),
            int(spans.rows[at]),
        )
        if outside[at]:
            reason = range_fault(start, end, int(lengths[row])) or ""
        else:
            reason = f"type {type_!r} is none of {', '.join(sorted(types))}{nearest(type_, types)}"
        faults.setdefault(row, reason)
    return faults


def range_fault(start: int, end: int, length: int) -> str | None:
    """Why a span (end exclusive) is none of a text of so many code points; None if it is one."""
    if start < 0 or end > length:
        return f"span {start} to {end} is out of range of its text, which has {length} characters"
    if start >= end:
        return f"span {start} to {end} is empty or inverted; ends are exclusive, so an end is larger than its start"
    return None


def _to_int32(values: pa.Array, name: str) -> Ints:
    try:
        found: Ints = values.cast(pa.int32()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise DataError(f"column '{name}': an offset is no 32-bit integer ({error})") from error
    return found
