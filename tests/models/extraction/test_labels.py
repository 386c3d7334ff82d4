"""Gold spans of texts to learn from: rows that cannot be learned from, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from kxbatch.data.spans import to_spans
from kxbatch.models.extraction.labels import Labels


def test_numbers_of_types() -> None:
    labels = Labels.read(pa.chunked_array([to_spans([[(0, 2, "A"), (0, 1, "B")], None, [(3, 4, "C")]])]), "labels")
    assert labels.numbers(("B", "A")).tolist() == [1, 0, -1]
    assert labels.null.tolist() == [False, True, False]


def test_every_row_that_cannot_be_learned_from_has_a_reason() -> None:
    rows: list[Any] = [
        [(0, 2, "PER")],
        [(1, 1, "PER")],
        [(-1, 1, "PER")],
        [(0, 1, "PRE"), (0, 2, "PER")],
        [(0, 3, "LOC")],
        [(0, 1, None)],
        None,
        [],
        [(0, 1, "")],
    ]
    labels = Labels.read(pa.chunked_array([to_spans(rows)]), "gold")
    lengths = np.full(len(rows), 2)
    found = labels.faults(lengths, ("PER", "LOC"))
    expected = {
        1: "span-inverted",
        2: "span-out-of-range",
        3: "unknown-type",
        4: "span-out-of-range",
        5: "span-incomplete",
        6: "null-labels",
        8: "span-incomplete",
    }
    assert {row: one.reason for row, one in found.items()} == expected
    assert found[3].words == "column 'gold': type 'PRE'; known are PER, LOC; did you mean 'PER'?"
    assert found[8].words == "column 'gold': span [0, 1) of type '': a type has a name"
    any_name = {row: one.reason for row, one in labels.faults(lengths, None).items()}
    assert any_name == {row: reason for row, reason in expected.items() if row != 3}
