"""Ragged ranking and sums against a stable sort and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from kxbatch.kernels.beam import log_probabilities, log_sum_exp, spread, top_k

SIZES = st.lists(st.integers(0, 40), max_size=12)


def offsets_of(sizes: list[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


@settings(max_examples=150, deadline=None)
@given(sizes=SIZES, k=st.integers(1, 50), distinct=st.sampled_from([1, 3, 10**6]), seed=st.integers(0, 2**32))
def test_top_k_is_a_stable_sort(sizes: list[int], k: int, distinct: int, seed: int) -> None:
    offsets = offsets_of(sizes)
    scores = -np.random.default_rng(seed).integers(distinct, size=offsets[-1]).astype(float)
    scores[::7] = -np.inf
    picked, starts = top_k(scores, offsets, k)
    assert starts.tolist() == offsets_of([min(size, k) for size in sizes]).tolist()
    for q in range(len(sizes)):
        expected = offsets[q] + np.argsort(-scores[offsets[q] : offsets[q + 1]], kind="stable")[:k]
        assert picked[starts[q] : starts[q + 1]].tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_sum_exp(dtype: type) -> None:
    rng = np.random.default_rng(0)
    sizes = [0, 1, 5, 0, 1000, 2]
    offsets = offsets_of(sizes)
    values = rng.normal(scale=300, size=offsets[-1]).astype(dtype)
    values[-2:] = -np.inf
    found = log_sum_exp(values, offsets)
    assert found[1] == values[0]
    for b, size in enumerate(sizes):
        part = values[offsets[b] : offsets[b + 1]].astype(np.float64)
        expected = logsumexp(part) if size else -np.inf
        assert found[b] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("renormalised", [False, True])
def test_probabilities_are_those_of_the_formula(renormalised: bool) -> None:
    rng = np.random.default_rng(1)
    sizes = [0, 1, 1, 3, 8, 30]
    for ahead in (np.zeros(6, bool), np.ones(6, bool), np.array([True, False, True, False, True, False])):
        offsets = offsets_of(sizes)
        logits = rng.normal(scale=3, size=offsets[-1]).astype(np.float32)
        gains = rng.integers(5, size=offsets[-1])
        normalizers = log_sum_exp(logits, offsets) + rng.exponential(size=6)
        normalizers[0] = 0.0
        found = log_probabilities(logits, offsets, normalizers, gains, ahead, renormalised=renormalised)
        for b in range(6):
            part = slice(offsets[b], offsets[b + 1])
            p = np.exp(logits[part] - normalizers[b])
            powered = p ** (1 / (gains[part] + 1)) if ahead[b] else p
            total = 1.0 if renormalised else p.sum()
            np.testing.assert_allclose(np.exp(found[part]), powered / powered.sum() * total, rtol=1e-12)


def test_ranges_written_out() -> None:
    begin, end, slot = np.array([3, 0, 5, 7]), np.array([5, 0, 5, 8]), np.array([True, True, False, False])
    values, offsets = spread(begin, end, slot)
    assert values.tolist() == [-1, 3, 4, -1, 7]
    assert offsets.tolist() == [0, 3, 4, 4, 5]
