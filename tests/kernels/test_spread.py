"""Mean, deviation and range against numpy; any split of the rows gives what the whole gives."""

from __future__ import annotations

import warnings
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kxbatch.kernels.spread import Spread, merge_spreads, spread_of

Array = npt.NDArray[np.float64]
VALUES = st.one_of(st.floats(-1e6, 1e6), st.just(np.nan), st.integers(-3, 3).map(float))


def holed(n: int, d: int, offset: float = 0.0) -> Array:
    rng = np.random.default_rng(n + d)
    x = rng.normal(size=(n, d)) * np.logspace(0, 2, d) + offset
    x[rng.random((n, d)) < 0.2] = np.nan
    return x


def check(found: Spread, x: Array, rtol: float = 1e-12) -> None:
    known = ~np.isnan(x)
    np.testing.assert_array_equal(found.count, known.sum(axis=0))
    some = known.any(axis=0)
    with warnings.catch_warnings(action="ignore"):
        mean, deviation = np.nanmean(x, axis=0), np.nanstd(x, axis=0)
        low, high = np.nanmin(x, axis=0), np.nanmax(x, axis=0)
    scale = np.nanmax(np.abs(x), axis=0, initial=0)
    assert (np.abs(found.mean - mean)[some] <= rtol * scale[some]).all()
    assert (np.abs(found.deviation - deviation)[some] <= 1e-7 * scale[some]).all()
    np.testing.assert_array_equal(found.low[some], low[some])
    np.testing.assert_array_equal(found.high[some], high[some])
    np.testing.assert_array_equal(found.constant, ~some | (low == high))
    assert (found.mean[~some] == 0).all()
    assert (found.scatter[~some] == 0).all()
    assert (found.low[~some] == np.inf).all()
    assert (found.high[~some] == -np.inf).all()


@pytest.mark.parametrize(("n", "d"), [(1, 3), (2, 1), (1000, 5)])
def test_against_numpy(n: int, d: int) -> None:
    check(spread_of(holed(n, d)), holed(n, d))


def test_no_rows() -> None:
    found = spread_of(np.empty((0, 3)))
    check(found, np.full((1, 3), np.nan))
    assert found.constant.all()


@settings(deadline=None)
@given(arrays(np.float64, st.tuples(st.integers(1, 12), st.integers(1, 3)), elements=VALUES), st.data())
def test_any_split_is_the_whole(x: Array, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=4)))
    pieces = [spread_of(piece) for piece in np.split(x, cuts)]
    check(reduce(merge_spreads, pieces), x)
    check(reduce(merge_spreads, reversed(pieces)), x)


def test_a_large_mean_swallows_no_spread() -> None:
    x = np.random.default_rng(0).normal(size=(4000, 4)) + 1e8
    whole = reduce(merge_spreads, (spread_of(piece) for piece in np.split(x, [1, 700, 2000])))
    np.testing.assert_allclose(whole.deviation, (x - 1e8).std(axis=0), rtol=1e-7)


def test_constant_means_the_very_same_number() -> None:
    x = np.full((1000, 3), 0.1)
    x[7, 1] = np.nextafter(0.1, 1)
    x[:, 2] = np.nan
    found = merge_spreads(spread_of(x[:500]), spread_of(x[500:]))
    assert found.constant.tolist() == [True, False, True]


def test_arrays_there_and_back() -> None:
    found: dict[str, Any] = spread_of(holed(20, 3)).to_arrays()
    assert set(found) == {"count", "mean", "scatter", "low", "high"}
    check(Spread(**found), holed(20, 3))
