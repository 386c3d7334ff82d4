"""Columns of spans as flat arrays, whatever their integers and texts are; and rows whose spans cannot be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kxbatch.data.span_columns import FlatSpans, faults
from kxbatch.data.spans import SPANS, is_spans, to_spans
from kxbatch.errors import DataError

ROWS = [[(0, 2, "A"), (0, 1, "B")], None, [], [(3, 4, "A")]]
CODED = pa.dictionary(pa.int8(), pa.string())


def kind(integer: pa.DataType, text: pa.DataType, *more: tuple[str, pa.DataType]) -> pa.DataType:
    return pa.struct([("type", text), ("start", integer), ("end", integer), *more])


def column_of(rows: list[Any], integer: pa.DataType, text: pa.DataType | None = None) -> pa.Array:
    spans = [
        None if row is None else [dict(zip(("start", "end", "type"), one, strict=True)) for one in row] for row in rows
    ]
    return pa.array(spans, pa.list_(kind(integer, text or pa.string())))


@pytest.mark.parametrize(
    "type_",
    [
        SPANS,
        pa.large_list(kind(pa.int64(), pa.large_string())),
        pa.list_(kind(pa.int16(), CODED)),
        pa.list_(kind(pa.uint64(), pa.string_view())),
        pa.list_(kind(pa.uint32(), pa.string(), ("score", pa.float32()))),
    ],
)
def test_spans_of_any_width_are_the_same_flat_arrays(type_: pa.DataType) -> None:
    column = pa.array(to_spans(ROWS).to_pylist(), type_)
    before = pa.array([[{"start": 9, "end": 9, "type": "x"}]], type_)
    chunks = pa.chunked_array([column.slice(0, 1), pa.concat_arrays([before, column]).slice(2)])  # with an offset
    for made in (column, pa.chunked_array([column]), chunks):
        found = FlatSpans.read(made, "labels", scored=True)
        assert found.rows.tolist() == [0, 0, 3]
        assert (found.starts.tolist(), found.ends.tolist()) == ([0, 0, 3], [2, 1, 4])
        assert found.types.to_pylist() == ["A", "B", "A"]
        assert np.isnan(found.scores).all()
        some = found.of_rows(np.array([False, False, True, True]))
        assert (some.rows.tolist(), some.starts.tolist(), some.types.to_pylist()) == ([1], [3], ["A"])
    for empty in (pa.chunked_array([column.slice(0, 0)]), pa.chunked_array([], type_)):
        assert not len(FlatSpans.read(empty, "labels").rows)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pa.array(["[]"]), "'gold' is string; spans are list<struct<start: int32"),
        (pa.array([[{"start": 0, "end": 1}]]), "'gold' is list.*; spans are list<struct<start: int32"),
        (pa.array([[{"starts": 0, "end": 1, "type": "A"}]]), "did you mean 'starts'"),
        (
            pa.array([[{"start": 0.0, "end": 1.0, "type": "A"}]]),
            "start is double, an integer is wanted; spans are list",
        ),
        (pa.array([[{"start": 0, "end": True, "type": "A"}]]), "end is bool, an integer is wanted"),
        (pa.array([[{"start": 0, "end": 1, "type": 7}]]), "type is int64, text is wanted"),
        (pa.array([[{"start": 0, "end": 1, "type": "A", "score": "high"}]]), "score is string, a number is wanted"),
    ],
)
def test_what_holds_no_spans_is_refused_by_name(column: pa.Array, words: str) -> None:
    with pytest.raises(DataError, match=f"column {words}" if words.startswith("'gold'") else f"column 'gold'.*{words}"):
        FlatSpans.read(pa.chunked_array([column]), "gold", scored=True)


def test_further_fields_that_nobody_wants_may_be_anything() -> None:
    column = pa.array([[{"start": 0, "end": 1, "type": "A", "score": "high"}]])
    assert len(FlatSpans.read(column, "gold").rows) == 1


@pytest.mark.parametrize("inner", [pa.null(), pa.float64()])
def test_empty_lists_of_whatever_are_lists_without_a_span(inner: pa.DataType) -> None:
    """What pandas writes, or a JSONL file gives, in which no text has an entity."""
    for type_ in (pa.list_(inner), pa.large_list(inner)):
        found = FlatSpans.read(pa.array([[], None, []], type_), "labels")
        assert len(found.rows) == len(found.types) == 0
    assert not len(FlatSpans.read(pa.nulls(3), "labels").rows)


FAR = 2**63 + 5


@pytest.mark.parametrize(
    ("integer", "span", "reason", "words"),
    [
        (pa.int32(), (0, 2, "A"), None, ""),
        (pa.int32(), (1, 1, "A"), "span-inverted", r"span \[1, 1\) of type 'A' is empty or inverted; offsets count"),
        (pa.int64(), (5, 2, "A"), "span-inverted", r"span \[5, 2\)"),
        (
            pa.int8(),
            (-1, 1, "A"),
            "span-out-of-range",
            r"span \[-1, 1\) of type 'A' is not in its text of 2 code points",
        ),
        (pa.int64(), (-(2**63) + 1, 1, "A"), "span-out-of-range", r"span \[-9223372036854775807, 1\)"),
        (pa.int64(), (0, 2**62, "A"), "span-out-of-range", r"span \[0, 4611686018427387904\)"),
        (pa.uint32(), (0, 2**32 - 1, "A"), "span-out-of-range", r"span \[0, 4294967295\)"),
        (pa.uint64(), (0, FAR, "A"), "span-out-of-range", r"span \[0, 9223372036854775807 or more\)"),
        (pa.uint64(), (FAR, 2, "A"), "span-inverted", r"span \[9223372036854775807 or more, 2\)"),
        (pa.uint64(), (FAR, None, "A"), "span-incomplete", "a span without end"),
        (pa.int32(), (None, 2, "A"), "span-incomplete", "a span without start"),
        (pa.int32(), (0, None, "A"), "span-incomplete", "a span without end"),
        (pa.null(), (None, None, "A"), "span-incomplete", "a span without start"),
        (pa.int32(), (0, 2, None), "span-incomplete", "a span without type"),
        (pa.int32(), (0, 2, ""), "span-incomplete", r"span \[0, 2\) of type '': a type has a name"),
    ],
)
def test_a_span_that_cannot_be_right_is_the_fault_of_its_row(
    integer: pa.DataType, span: Any, reason: str | None, words: str
) -> None:
    good = [] if pa.types.is_null(integer) else [(0, 1, "B")]
    rows = [good, None, [*good, span, *([] if reason is None else [span])], []]
    found = faults(FlatSpans.read(column_of(rows, integer), "gold"), np.full(4, 2))
    assert list(found) == ([] if reason is None else [2]), "other rows are not to blame"
    if reason is not None:
        assert found[2].reason == reason
        assert pc.match_substring_regex(found[2].words, words).as_py()


def test_a_null_among_the_spans_is_no_span() -> None:
    column = pa.array([[None, {"start": 0, "end": 1, "type": "A"}], [{"start": 0, "end": 1, "type": "A"}]], SPANS)
    found = faults(FlatSpans.read(column, "gold"), np.array([1, 1]))
    assert {row: one.words for row, one in found.items()} == {0: "a span without start"}


def test_types_that_are_not_utf8_are_no_types() -> None:
    broken = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xffx", b"A"]).buffers())
    fields = [pa.array([0, 0]), pa.array([1, 1]), broken]
    values = pa.StructArray.from_arrays(fields, ["start", "end", "type"])
    column = pa.ListArray.from_arrays(pa.array([0, 1, 2], pa.int32()), values)
    found = FlatSpans.read(column, "gold")
    assert found.types.to_pylist() == [None, "A"]
    assert "not UTF-8" in faults(found, np.array([5, 5]))[0].words


def test_other_columns_are_no_spans() -> None:
    for other in (pa.string(), pa.list_(pa.float32()), pa.list_(pa.struct([("start", pa.int32())])), SPANS.value_type):
        assert not is_spans(other)
