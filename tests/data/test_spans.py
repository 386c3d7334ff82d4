"""Columns of spans as flat arrays, whatever their integers and texts are; and what is wrong with spans, in words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kxbatch.data.spans import SPANS, flat_spans, is_spans, span_faults, to_spans
from kxbatch.errors import DataError

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
    for made in (column, chunks):
        found = flat_spans(made, "labels")
        assert found.rows.tolist() == [0, 0, 3]
        assert (found.starts.tolist(), found.ends.tolist()) == ([0, 0, 3], [2, 1, 4])
        assert found.types.to_pylist() == ["A", "B", "A"]
        assert found.starts.dtype == np.int32
    assert not len(flat_spans(column.slice(0, 0), "labels").rows)
    assert not len(flat_spans(pa.chunked_array([], type_), "labels").rows)


@pytest.mark.parametrize(
    ("column", "word"),
    [
        (pa.array(["[]"]), "has type string; spans are needed"),
        (pa.array([[{"start": 0, "end": 1}]]), "spans are needed"),
        (pa.array([[{"start": 0.0, "end": 1.0, "type": "A"}]]), "spans are needed"),
        (pa.array([[], [{"start": 0, "end": None, "type": "A"}]], SPANS), "row 1 has a span without end"),
        (pa.array([[{"start": 0, "end": 2**40, "type": "A"}]]), "no 32-bit integer"),
    ],
)
def test_what_holds_no_spans_is_refused_by_name(column: pa.Array, word: str) -> None:
    with pytest.raises(DataError, match=f"column 'gold'.*{word}"):
        flat_spans(column, "gold")


def test_faults_name_the_span_and_what_is_allowed() -> None:
    rows: list[Any] = [
        [(0, 2, "PER")],
        [(1, 1, "PER")],
        [(-1, 1, "PER")],
        [(0, 1, "PRE"), (0, 9, "PER")],
        [(0, 3, "LOC")],
    ]
    faults = span_faults(flat_spans(to_spans(rows), "x"), np.full(5, 2), {"PER", "LOC"})
    assert sorted(faults) == [1, 2, 3, 4]
    assert "empty or inverted" in faults[1]
    assert "-1 to 1 is out of range" in faults[2]
    assert "did you mean 'PER'" in faults[3]
    assert "which has 2 characters" in faults[4]


def test_other_columns_are_no_spans() -> None:
    for other in (pa.string(), pa.list_(pa.float32()), pa.list_(pa.struct([("start", pa.int32())])), SPANS.value_type):
        assert not is_spans(other)
