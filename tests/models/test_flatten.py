"""Flat spans against a greedy loop over all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.models.extraction.flatten import flatten
from kxbatch.models.extraction.token_spans import TokenSpans

SPAN = st.tuples(
    st.integers(0, 2), st.integers(0, 8), st.integers(1, 5), st.integers(0, 2), st.sampled_from([0.5, 1, 2])
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(SPAN, max_size=25))
def test_the_best_spans_are_kept_greedily(given_spans: list[tuple[int, int, int, int, float]]) -> None:
    rows, starts, widths, types, scores = np.array(given_spans, dtype=float).reshape(-1, 5).T
    spans = TokenSpans.of(rows, starts, starts + widths, types, scores)
    flat = flatten(spans)
    kept: list[tuple[int, int, int, int]] = []
    for row, start, width, kind, _ in sorted(given_spans, key=lambda s: (-s[4], -s[2], s[1], s[3])):
        if all(row != other[0] or start + width <= other[1] or other[2] <= start for other in kept):
            kept.append((row, start, start + width, kind))
    assert list(zip(*(c.tolist() for c in (flat.rows, flat.starts, flat.ends, flat.types)), strict=True)) == sorted(
        kept
    )
    again = flatten(flat)
    assert again.scores.tolist() == flat.scores.tolist()


def test_of_equal_scores_the_longer_then_the_earlier_then_the_lower_type_stays() -> None:
    spans = TokenSpans.of([0] * 5, [0, 1, 2, 5, 5], [2, 3, 5, 7, 7], [0, 0, 0, 2, 1])
    flat = flatten(spans)
    assert list(zip(flat.starts.tolist(), flat.ends.tolist(), flat.types.tolist(), strict=True)) == [
        (0, 2, 0),
        (2, 5, 0),
        (5, 7, 1),
    ]


def test_columns_are_sorted_and_typed() -> None:
    spans = TokenSpans.of([1, 0, 0, 0], [0, 3, 1, 1], [2, 4, 3, 3], [0, 0, 1, 0], [1, 2, 3, 4])
    assert spans.rows.tolist() == [0, 0, 0, 1]
    assert spans.types.tolist() == [0, 1, 0, 0]
    assert spans.scores.tolist() == [4, 3, 2, 1]
    assert [c.dtype for c in (spans.rows, spans.starts, spans.ends, spans.types, spans.scores)] == [np.int32] * 4 + [
        np.float32
    ]
    assert spans.gold().tolist() == [[0, 0, 1, 3], [0, 1, 1, 3], [0, 0, 3, 4], [1, 0, 0, 2]]
    assert len(TokenSpans.of([], [], [], [])) == len(flatten(TokenSpans.of([], [], [], []))) == 0
