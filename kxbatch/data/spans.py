"""Columns of spans: a list a text, each with `start`, `end` (code points of the text, exclusive) and `type`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

Span = tuple[int, int, str]

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
KEYS = ("start", "end", "type")


def is_list(kind: pa.DataType) -> bool:
    """Whether a column type holds lists of any length."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def is_spans(kind: pa.DataType) -> bool:
    """Whether a column type holds spans; integers of any width, types as text or dictionary, and further fields will do."""
    if not is_list(kind) or not pa.types.is_struct(kind.value_type):
        return False
    inner = {field.name: field.type for field in kind.value_type}
    if not inner.keys() >= set(KEYS):
        return False
    type_ = inner["type"].value_type if pa.types.is_dictionary(inner["type"]) else inner["type"]
    text = pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_)
    return bool(text and pa.types.is_integer(inner["start"]) and pa.types.is_integer(inner["end"]))


def is_undecided(kind: pa.DataType) -> bool:
    """Whether a column type is that of lists which are all empty, as a writer that saw no span gives it: list<null>."""
    return is_list(kind) and bool(pa.types.is_null(kind.value_type))


def is_span(value: Any) -> bool:
    """Whether a JSON value is a span; it may have further keys."""
    return (
        isinstance(value, dict)
        and all(type(value.get(key)) is int for key in ("start", "end"))
        and isinstance(value.get("type"), str)
    )


def narrowed(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, dict[int, int]]:
    """Spans whose offsets `SPANS` can hold: a row with another one is null, and is given with that offset.

    Args:
        column: spans, with integers of any width.
    """
    lists = column.combine_chunks()
    values, rows = pc.list_flatten(lists), pc.list_parent_indices(lists)
    faults: dict[int, int] = {}
    for offsets in (pc.struct_field(values, key) for key in KEYS[:2]):
        short = offsets.cast(pa.int32(), safe=False)
        wrong = pc.not_equal(short.cast(offsets.type, safe=False), offsets)
        if pa.types.is_unsigned_integer(offsets.type):
            wrong = pc.or_(wrong, pc.less(short, 0))  # the largest ones come back from int32 as they were
        faults |= dict(zip(rows.filter(wrong).to_pylist(), offsets.filter(wrong).to_pylist(), strict=True))
    if not faults:
        return column, faults
    kept = [None if row in faults else row for row in range(len(lists))]
    return pa.chunked_array([lists.take(pa.array(kept, pa.int64()))]), faults


def to_spans(found: Sequence[Sequence[Span] | None]) -> pa.Array:
    """A column of spans from (start, end, type) tuples; null for None."""
    return pa.array(
        [None if row is None else [dict(zip(KEYS, span, strict=True)) for span in row] for row in found], SPANS
    )
