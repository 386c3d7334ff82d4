"""Columns of spans: a list a text, each with `start`, `end` (code points of the text, exclusive) and `type`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

Span = tuple[int, int, str]

SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
KEYS = ("start", "end", "type")


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
