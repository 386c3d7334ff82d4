"""Columns of gold spans as flat arrays, whatever their integers and texts are; and rows whose spans cannot be right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kxbatch.data.spans import SPANS, is_spans, to_spans
from kxbatch.errors import DataError
from kxbatch.models.extraction.labels import Labels, flaws

ROWS = [[(0, 2, "A"), (0, 1, "B")], None, [], [(3, 4, "A")]]
CODED = pa.dictionary(pa.int8(), pa.string())


def kind(integer: pa.DataType, text: pa.DataType, *more: tuple[str, pa.DataType]) -> pa.DataType:
    return pa.struct([("type", text), ("start", integer), ("end", integer), *more])


@pytest.mark.parametrize(
    "type_",
    [
        SPANS,
        pa.large_list(kind(pa.int64(), pa.large_string())),
        pa.list_(kind(pa.int16(), CODED)),
        pa.list_(kind(pa.uint32(), pa.string(), ("score", pa.float32()))),
    ],
)
def test_spans_of_any_width_are_the_same_flat_arrays(type_: pa.DataType) -> None:
    column = pa.array(to_spans(ROWS).to_pylist(), type_)
    before = pa.array([[{"start": 9, "end": 9, "type": "x"}]], type_)
    chunks = pa.chunked_array([column.slice(0, 1), pa.concat_arrays([before, column]).slice(2)])  # with an offset
    for made in (pa.chunked_array([column]), chunks):
        found = Labels.read(made, "labels")
        assert found.rows.tolist() == [0, 0, 3]
        assert (found.starts.tolist(), found.ends.tolist()) == ([0, 0, 3], [2, 1, 4])
        assert found.types.to_pylist() == ["A", "B", "A"]
        assert found.null.tolist() == [False, True, False, False]
        assert found.numbers(("B", "A")).tolist() == [1, 0, 1]
    for empty in (pa.chunked_array([column.slice(0, 0)]), pa.chunked_array([], type_)):
        assert not len(Labels.read(empty, "labels").rows)


@pytest.mark.parametrize(
    "column",
    [
        pa.array(["[]"]),
        pa.array([[{"start": 0, "end": 1}]]),
        pa.array([[{"start": 0.0, "end": 1.0, "type": "A"}]]),
    ],
)
def test_what_holds_no_spans_is_refused_by_name(column: pa.Array) -> None:
    with pytest.raises(DataError, match=r"column 'gold' is .*; spans are list<struct<start: int32"):
        Labels.read(pa.chunked_array([column]), "gold")


@pytest.mark.parametrize("inner", [pa.null(), pa.float64()])
def test_empty_lists_of_whatever_are_lists_without_a_span(inner: pa.DataType) -> None:
    """What pandas writes, or a JSONL file gives, in which no text has an entity."""
    for type_ in (pa.list_(inner), pa.large_list(inner)):
        found = Labels.read(pa.chunked_array([pa.array([[], None, []], type_)]), "labels")
        assert found.null.tolist() == [False, True, False]
        assert len(found.rows) == len(found.types) == 0
        assert not found.numbers(("A",)).size


def test_every_row_whose_spans_cannot_be_right_has_a_reason() -> None:
    rows: list[Any] = [
        [(0, 2, "PER")],
        [(1, 1, "PER")],
        [(-1, 1, "PER")],
        [(0, 1, "PRE"), (0, 2, "PER")],
        [(0, 3, "LOC")],
        [(0, 1, None)],
        None,
        [],
    ]
    labels = Labels.read(pa.chunked_array([to_spans(rows)]), "gold")
    lengths = np.full(len(rows), 2)
    reasons, words = flaws(labels, lengths, "gold", ("PER", "LOC"))
    expected = [
        "",
        "span-inverted",
        "span-out-of-range",
        "unknown-type",
        "span-out-of-range",
        "unknown-type",
        "null-labels",
        "",
    ]
    assert reasons.tolist() == expected
    assert words["unknown-type"] == "column 'gold': type 'PRE'; known are PER, LOC; did you mean 'PER'?"
    reasons, _ = flaws(labels, lengths, "gold", None)
    expected[3] = ""
    assert reasons.tolist() == expected, "any name of a type will do, but there must be one"


def test_other_columns_are_no_spans() -> None:
    for other in (pa.string(), pa.list_(pa.float32()), pa.list_(pa.struct([("start", pa.int32())])), SPANS.value_type):
        assert not is_spans(other)
