"""However a corpus is cut, the merged lists are those of one search, bit for bit."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kxbatch.kernels.knn import Metric, Neighbors, Precision, knn_cross, knn_graph, knn_pair, merge

METRICS = get_args(Metric)


def corpus(seed: int, n: int) -> NDArray[np.float32]:
    """Clusters, exact copies, near copies and ties."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((8, 10))[rng.integers(8, size=n)] + 0.3 * rng.standard_normal((n, 10))
    x[rng.permutation(n)[: n // 5]] = x[0]
    x[rng.permutation(n)[: n // 5]] = x[1] + 1e-7 * rng.standard_normal((n // 5, 10))
    x[rng.permutation(n)[: n // 5]] = np.round(x[rng.permutation(n)[: n // 5]]) + 0.5
    return x.astype(np.float32)


def shifted(lists: Neighbors, offset: int) -> Neighbors:
    return Neighbors(np.where(lists.indices >= 0, lists.indices + offset, -1), lists.scores)


def from_blocks(
    x: NDArray[np.float32],
    edges: list[int],
    k: int,
    metric: Metric,
    threads: int,
    precision: Precision,
    floors: bool,
) -> Neighbors:
    """The graph from the graphs of blocks and the pairs of blocks; optionally each pair knows what came before."""
    spans = list(itertools.pairwise(edges))
    lists = [shifted(knn_graph(x[a:b], k, metric=metric, threads=threads, precision=precision), a) for a, b in spans]
    for p, q in itertools.combinations(range(len(spans)), 2):
        (a0, a1), (b0, b1) = spans[p], spans[q]
        of_p, of_q = knn_pair(
            x[a0:a1],
            x[b0:b1],
            k,
            metric=metric,
            threads=threads,
            precision=precision,
            offset_a=a0,
            offset_b=b0,
            floor_a=lists[p].scores[:, -1] if floors else None,
            floor_b=lists[q].scores[:, -1] if floors else None,
        )
        lists[p], lists[q] = merge([lists[p], of_p], k, metric=metric), merge([lists[q], of_q], k, metric=metric)
    return Neighbors(np.concatenate([one.indices for one in lists]), np.concatenate([one.scores for one in lists]))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    cuts=st.sets(st.integers(1, 299), max_size=5),
    k=st.sampled_from([1, 3, 10, 70]),
    metric=st.sampled_from(METRICS),
    threads=st.sampled_from([1, 2, 3]),
    precision=st.sampled_from(get_args(Precision)),
    floors=st.booleans(),
)
def test_merged_blocks_equal_the_whole(
    seed: int, cuts: set[int], k: int, metric: Metric, threads: int, precision: Precision, floors: bool
) -> None:
    x = corpus(seed, 300)
    whole = knn_graph(x, k, metric=metric)
    found = from_blocks(x, [0, *sorted(cuts), 300], k, metric, threads, precision, floors)
    np.testing.assert_array_equal(found.scores, whole.scores)
    np.testing.assert_array_equal(found.indices, whole.indices)


@pytest.mark.parametrize("metric", METRICS)
def test_blocks_of_several_tiles(metric: Metric) -> None:
    x = corpus(1, 3300)
    whole = knn_graph(x, 10, metric=metric, threads=2)
    for threads, precision in itertools.product((1, 2), get_args(Precision)):
        found = from_blocks(x, [0, 1700, 3300], 10, metric, threads, precision, floors=precision != "auto")
        np.testing.assert_array_equal(found.scores, whole.scores)
        np.testing.assert_array_equal(found.indices, whole.indices)


@pytest.mark.parametrize("metric", METRICS)
def test_pair_is_two_cross_searches(metric: Metric) -> None:
    x = corpus(2, 700)
    a, b = x[:260], x[260:]
    of_a, of_b = knn_pair(a, b, 9, metric=metric, offset_a=1000, offset_b=5000, threads=2)
    for found, expected in (
        (of_a, shifted(knn_cross(a, b, 9, metric=metric), 5000)),
        (of_b, shifted(knn_cross(b, a, 9, metric=metric), 1000)),
    ):
        np.testing.assert_array_equal(found.indices, expected.indices)
        np.testing.assert_array_equal(found.scores, expected.scores)


@pytest.mark.parametrize("metric", METRICS)
def test_floor_keeps_what_is_at_least_as_good(metric: Metric) -> None:
    x = corpus(3, 600)
    x[40:60] = np.random.default_rng(5).standard_normal(10)  # copies in a, none of them in b
    a, b = x[:300], x[300:]
    full, _ = knn_pair(a, b, 8, metric=metric)
    floor = full.scores[:, 4].copy()
    unknown = np.random.default_rng(4).random(300) < 0.3  # also of some copies of a row, but not of others
    floor[unknown] = np.inf if metric == "euclidean" else -np.inf
    found, other = knn_pair(a, b, 8, metric=metric, floor_a=floor)
    good = full.scores <= floor[:, None] if metric == "euclidean" else full.scores >= floor[:, None]
    np.testing.assert_array_equal(found.indices, np.where(good, full.indices, -1))
    assert (found.indices[:, :5] >= 0).all()
    np.testing.assert_array_equal(other.indices, knn_pair(a, b, 8, metric=metric)[1].indices)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    widths=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    k=st.integers(1, 12),
    metric=st.sampled_from(METRICS),
)
def test_merge_equals_a_full_sort(seed: int, widths: list[int], k: int, metric: Metric) -> None:
    rng = np.random.default_rng(seed)
    sign, n, total = (1.0 if metric == "euclidean" else -1.0), 5, sum(widths)
    scores = rng.integers(0, 4, (n, total)).astype(np.float64)
    indices = np.stack([rng.permutation(50)[:total] for _ in range(n)])
    missing = rng.random((n, total)) < 0.2
    scores[missing], indices[missing] = sign * np.inf, -1
    lists = []
    for start, width in zip(np.cumsum([0, *widths[:-1]]), widths, strict=True):
        at = slice(start, start + width)
        lists.append(Neighbors(indices[:, at], scores[:, at]))
    found = merge(lists, k, metric=metric)
    for i in range(n):
        order = np.lexsort((indices[i], sign * scores[i]))
        order = order[indices[i][order] >= 0][:k]
        np.testing.assert_array_equal(found.indices[i], [*indices[i][order], *[-1] * (k - len(order))])
        np.testing.assert_array_equal(found.scores[i], [*scores[i][order], *[sign * np.inf] * (k - len(order))])


def test_merge_refuses_what_does_not_fit() -> None:
    one = knn_graph(np.eye(3, dtype=np.float32), 1)
    with pytest.raises(ValueError, match="at least one list"):
        merge([], 1, metric="cosine")
    with pytest.raises(ValueError, match="same rows"):
        merge([one, Neighbors(one.indices[:2], one.scores[:2])], 1, metric="cosine")
