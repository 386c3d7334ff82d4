from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr

from kxbatch.kernels.correlation import average_ranks, spearman, sweep
from kxbatch.kernels.moments import fold
from kxbatch.kernels.whitening import apply, fit, normalize

Array = NDArray[Any]
GRID = [0.0, 0.25, 0.5, 0.75, 1.0]


def labelled_pairs(n: int = 300, d: int = 12) -> tuple[Array, Array, Array, Array]:
    """A corpus with an offset mean, and pairs whose gold score falls with their distance, in steps of 0.5."""
    rng = np.random.default_rng(0)
    corpus = rng.standard_normal((1_000, d)) * np.logspace(0, -1, d) + 1.0
    left = corpus[rng.integers(0, 1_000, n)]
    noise = rng.random(n)
    right = left + noise[:, None] * rng.standard_normal((n, d)) * np.logspace(0, -1, d)
    return corpus, left, right, np.round(10 * (1 - noise)) / 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=40))
def test_spearman_with_ties_equals_scipy(pairs: list[tuple[int, int]]) -> None:
    a, b = np.array(pairs, dtype=float).T
    np.testing.assert_array_equal(average_ranks(a), rankdata(a))
    ours = spearman(a, b)
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert ours is None
    else:
        assert ours == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_spearman_sees_order_alone() -> None:
    a = np.random.default_rng(1).standard_normal(200)
    assert spearman(a, np.exp(a)) == pytest.approx(1.0)
    assert spearman(a, -(a**3)) == pytest.approx(-1.0)


def test_spearman_refuses_what_it_cannot_rank() -> None:
    with pytest.raises(ValueError, match="one length"):
        spearman([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="NaN"):
        spearman([1.0, np.nan], [1.0, 2.0])
    assert spearman([], []) is None
    assert spearman([1.0], [2.0]) is None


def test_sweep_equals_fitting_and_applying_at_every_point() -> None:
    corpus, left, right, gold = labelled_pairs()
    m, dims = fold(corpus), [1, 5, 12]
    points = sweep(m, left, right, gold, GRID, GRID, dims)
    assert [(p.beta, p.gamma, p.dim) for p in points] == list(product(GRID, GRID, dims))
    for p in points:
        t = fit(m, p.beta, p.gamma, p.dim)
        x, y = (normalize(apply(t, z, dtype=np.float64)) for z in (left, right))
        # In one dimension every cosine is 1 or -1 up to rounding, and rounding has no rank.
        cosine = np.round((x * y).sum(axis=1), 12)
        if p.dim > 1:
            assert p.spearman == pytest.approx(spearmanr(cosine, gold).statistic, abs=1e-9)


def test_sweep_does_not_depend_on_its_blocks() -> None:
    corpus, left, right, gold = labelled_pairs()
    wide, wide_right = (np.tile(z, (30, 1)) for z in (left, right))
    one = sweep(fold(corpus), left, right, gold, [0.5], [0.5], [4])[0].spearman
    many = sweep(fold(corpus), wide, wide_right, np.tile(gold, 30), [0.5], [0.5], [4])[0].spearman
    assert many == pytest.approx(one, abs=1e-9)  # 9000 pairs, three blocks: every pair 30 times


def test_sweep_leaves_out_widths_beyond_the_rank() -> None:
    corpus, left, right, gold = labelled_pairs()
    corpus[:, -1] = corpus[:, 0]
    points = sweep(fold(corpus), left, right, gold, [1.0], [1.0], [3, 11, 12])
    assert [p.dim for p in points] == [3, 11]
    with pytest.raises(ValueError, match="rank 11"):
        fit(fold(corpus), dim=12)


def test_sweep_refuses_what_does_not_fit() -> None:
    corpus, left, right, gold = labelled_pairs()
    m = fold(corpus)
    with pytest.raises(ValueError, match="gold"):
        sweep(m, left, right, gold[:-1], [1.0], [1.0], [4])
    with pytest.raises(ValueError, match="width 13"):
        sweep(m, left, right, gold, [1.0], [1.0], [13])
    with pytest.raises(ValueError, match="gamma"):
        sweep(m, left, right, gold, [1.0], [2.0], [4])
    with pytest.raises(ValueError, match="beta"):
        sweep(m, left, right, gold, [-1.0], [1.0], [4])
