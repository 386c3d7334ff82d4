from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from kxbatch.kernels.moments import (
    BLOCK,
    Moments,
    fold,
    mean_cosine,
    merge,
    merge_tree,
    second_moment,
)

Array = NDArray[Any]


def correlated(n: int, d: int, seed: int = 0, offset: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((d, d)) / np.sqrt(d)
    return np.asarray(rng.standard_normal((n, d)) @ mix + rng.standard_normal(d) + offset)


def same_bytes(a: Moments, b: Moments) -> bool:
    left, right = a.to_arrays(), b.to_arrays()
    return left.keys() == right.keys() and all(left[k].tobytes() == right[k].tobytes() for k in left)


@pytest.mark.parametrize("n", [1, 2, 511, 513, BLOCK, BLOCK + 1, 2 * BLOCK + 700])
def test_fold_equals_the_two_pass_definition(n: int) -> None:
    x = correlated(n, 12)
    m = fold(x)
    centred = x - x.mean(axis=0)
    assert m.n == n
    np.testing.assert_allclose(m.mean, x.mean(axis=0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(m.scatter, centred.T @ centred, rtol=0, atol=1e-12 * n)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(m.unit_sum, unit.sum(axis=0), rtol=0, atol=1e-12 * n)
    assert m.zeros == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_narrow_rows_keep_the_stated_error(dtype: type[np.floating[Any]]) -> None:
    x = (correlated(20_000, 48) * np.logspace(0, -2, 48)).astype(dtype)
    m, truth = fold(x), fold(x.astype(np.float64))
    scale = np.sqrt(np.outer(truth.scatter.diagonal(), truth.scatter.diagonal()))
    assert float((np.abs(m.scatter - truth.scatter) / scale).max()) < 3e-7
    np.testing.assert_allclose(m.mean, truth.mean, rtol=0, atol=1e-6)
    assert (m.roundoff, truth.roundoff) == (2.0**-24, 2.0**-53)


def test_exact_multiplies_in_float64() -> None:
    x = correlated(9_000, 20).astype(np.float32)
    assert same_bytes(fold(x, exact=True), fold(x.astype(np.float64)))


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-9), (np.float32, 1e-6)])
def test_a_mean_of_a_million_does_not_swallow_unit_variance(dtype: Any, tolerance: float) -> None:
    """The rows are rounded to `dtype` first, and compared with the exact moments of the rounded rows."""
    x = (np.random.default_rng(3).standard_normal((20_000, 16)) + 1e6).astype(dtype)
    m = fold(x)
    shifted = x.astype(np.float64) - 1e6  # exact: no digit is lost
    covariance = np.cov(shifted, rowvar=False, bias=True)
    np.testing.assert_allclose(m.mean - 1e6, shifted.mean(axis=0), rtol=0, atol=1e-6)
    np.testing.assert_allclose(second_moment(m, 1.0), covariance, rtol=0, atol=tolerance)


def test_rows_that_wander_off_lose_nothing_in_float32() -> None:
    """Every block is shifted to its own middle, so a drifting mean does not cost digits."""
    rng = np.random.default_rng(4)
    middles = np.repeat(np.array([0, 1e4, -1e4, 3e4], dtype=np.float32), BLOCK)
    x = rng.standard_normal((4 * BLOCK, 8)).astype(np.float32) + middles[:, None]
    truth = fold(x, exact=True).scatter
    np.testing.assert_allclose(fold(x).scatter, truth, rtol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_second_moment_equals_a_direct_second_pass(beta: float) -> None:
    x = correlated(3_000, 10, offset=2.0)
    m = fold(x)
    off = x - beta * x.mean(axis=0)
    np.testing.assert_allclose(second_moment(m, beta), off.T @ off / len(x), rtol=0, atol=1e-12)
    textbook = x.T @ x / len(x) - (2 * beta - beta**2) * np.outer(x.mean(axis=0), x.mean(axis=0))
    np.testing.assert_allclose(second_moment(m, beta), textbook, rtol=0, atol=1e-11)


def test_covariance_is_that_of_numpy_with_bias() -> None:
    x = correlated(1_000, 7)
    np.testing.assert_allclose(second_moment(fold(x), 1.0), np.cov(x, rowvar=False, bias=True), atol=1e-13)


@settings(max_examples=40, deadline=None)
@given(
    cuts=st.lists(st.integers(0, 300), min_size=0, max_size=8),
    seed=st.integers(0, 2**16),
    offset=st.sampled_from([0.0, 3.0, 1e3]),
)
def test_any_split_and_any_merge_order_give_the_same_moments(cuts: list[int], seed: int, offset: float) -> None:
    x = correlated(300, 6, seed=seed, offset=offset)
    whole = fold(x)
    parts = [fold(x[a:b]) for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 300], strict=True)]
    shuffled = [parts[i] for i in np.random.default_rng(seed).permutation(len(parts))]
    for merged in (merge_tree(parts), merge_tree(shuffled)):
        assert merged.n == 300
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(merged.scatter, whole.scatter, rtol=0, atol=1e-10)
        np.testing.assert_allclose(merged.unit_sum, whole.unit_sum, rtol=0, atol=1e-11)


def test_the_same_split_gives_the_same_bytes() -> None:
    x = correlated(5_000, 24).astype(np.float32)
    parts = [x[i : i + 700] for i in range(0, 5_000, 700)]
    first = merge_tree([fold(p) for p in parts])
    folded_backwards = [fold(p.copy()) for p in reversed(parts)]
    assert same_bytes(first, merge_tree(folded_backwards[::-1]))


def test_no_rows_are_neutral() -> None:
    x = correlated(50, 5)
    nothing, some = fold(x[:0]), fold(x)
    assert same_bytes(merge(nothing, some), some)
    assert same_bytes(merge(some, nothing), some)
    with pytest.raises(ValueError, match="no rows"):
        second_moment(nothing, 1.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_mean_cosine_equals_all_pairs(dtype: Any) -> None:
    x = correlated(400, 9, offset=0.3).astype(dtype)
    x[[3, 250]] = 0.0
    unit = x[np.abs(x).sum(axis=1) > 0].astype(np.float64)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(398, 1)]
    m = merge_tree([fold(x[:101]), fold(x[101:260]), fold(x[260:])])
    assert m.zeros == 2
    assert mean_cosine(m) == pytest.approx(cosines.mean(), abs=1e-7 if dtype == np.float32 else 1e-13)


def test_mean_cosine_of_one_direction_is_undefined() -> None:
    assert mean_cosine(fold(np.array([[1.0, 2.0], [0.0, 0.0]]))) is None


def test_arrays_round_trip() -> None:
    m = fold(correlated(100, 4).astype(np.float32))
    assert same_bytes(Moments.from_arrays(m.to_arrays()), m)
    assert same_bytes(Moments.from_arrays(load(save(m.to_arrays()))), m)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_row_that_is_not_finite_is_named(bad: float) -> None:
    x = correlated(1_500, 4).astype(np.float32)
    x[1_234, 2] = bad
    with pytest.raises(ValueError, match="row 1234 "):
        fold(x)


def test_overflow_of_float32_is_refused_and_exact_helps() -> None:
    x = (correlated(100, 4) * 1e19).astype(np.float32)
    with pytest.raises(ValueError, match="overflow"):
        fold(x)
    truth = np.cov(x.astype(np.float64), rowvar=False, bias=True)
    np.testing.assert_allclose(second_moment(fold(x, exact=True), 1.0), truth, rtol=1e-10)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="matrix"):
        fold(np.zeros(3))
    whole: Array = np.zeros((3, 3), dtype=np.int64)
    with pytest.raises(ValueError, match="int64"):
        fold(whole)
    with pytest.raises(ValueError, match="width 3 and 4"):
        merge(fold(np.ones((2, 3))), fold(np.ones((2, 4))))
    with pytest.raises(ValueError, match="no moments"):
        merge_tree([])
