"""Measures of a ranking against scikit-learn's, ties and infinities included."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from kxbatch.kernels.ranking import auroc, average_precision, lowest_overlap

ROWS = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(ROWS)
def test_auroc_and_average_precision_with_ties_equal_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, found = np.array([score for score, _ in rows], float), np.array([label for _, label in rows])
    if found.all() or not found.any():
        assert auroc(scores, found) is None
    else:
        assert auroc(scores, found) == pytest.approx(roc_auc_score(found, scores), abs=1e-12)
    if not found.any():
        assert average_precision(scores, found) is None
    else:
        assert average_precision(scores, found) == pytest.approx(average_precision_score(found, scores), abs=1e-12)


def test_many_rows_equal_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    found = rng.random(200_000) < 0.01
    scores = np.round(rng.normal(size=len(found)) + 1.5 * found, 2)
    assert auroc(scores, found) == pytest.approx(roc_auc_score(found, scores), abs=1e-12)
    assert average_precision(scores, found) == pytest.approx(average_precision_score(found, scores), abs=1e-12)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(rows: list[tuple[int, bool]], random: Any) -> None:
    other = list(rows)
    random.shuffle(other)
    for measure in (auroc, average_precision):
        assert measure(*zip(*rows, strict=True)) == pytest.approx(measure(*zip(*other, strict=True)), abs=1e-12)


def test_infinite_scores_are_ranked_and_nan_is_refused() -> None:
    assert auroc([-np.inf, 0.0, np.inf], [False, False, True]) == 1.0
    assert average_precision([np.inf, np.inf, 1.0], [True, False, False]) == 0.5
    for measure in (auroc, average_precision):
        with pytest.raises(ValueError, match="got NaN"):
            measure([np.nan, 0.0], [True, False])
        with pytest.raises(ValueError, match=r"got \[2\] and \[1\]"):
            measure([1.0, 0.0], [True])


def test_overlap_of_the_lowest() -> None:
    a = np.arange(1000.0)
    assert lowest_overlap(a, a, 0.01) == 1.0
    assert lowest_overlap(a, -a, 0.01) == 0.0
    assert lowest_overlap(a, np.where(a < 5, 2000.0, a), 0.01) == 0.5
    assert lowest_overlap([1.0, 2.0], [1.0, 2.0], 0.01) == 1.0, "at least one row"
    assert lowest_overlap([], [], 0.01) is None
    rng = np.random.default_rng(1)
    by_chance = lowest_overlap(rng.random(100_000), rng.random(100_000), 0.05)
    assert by_chance == pytest.approx(0.05, abs=0.015)
    with pytest.raises(ValueError, match="one length"):
        lowest_overlap([1.0], [1.0, 2.0], 0.01)
