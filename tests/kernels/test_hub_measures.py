from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import skew, spearmanr

from kxbatch.kernels.hub_measures import (
    histogram,
    k_occurrence,
    lorenz,
    lorenz_of_histogram,
    measures,
    measures_of_histogram,
    top_hubs,
)
from kxbatch.kernels.knn import knn_graph

Array = NDArray[Any]
KEYS = [
    "n",
    "k",
    "skewness",
    "robin_hood",
    "gini",
    "atkinson",
    "antihub_share",
    "hub_share",
    "hub_occurrence",
    "max_k_occurrence",
    "groupie_ratio",
]
many_counts = st.lists(st.integers(0, 60), min_size=1, max_size=200).map(np.array)


@settings(max_examples=100, deadline=None)
@given(counts=many_counts, k=st.integers(1, 12), factor=st.sampled_from([1.0, 2.0, 5.5]))
def test_measures_equal_their_definitions_row_by_row(counts: Array, k: int, factor: float) -> None:
    found = measures(counts, k, factor)
    n, total = len(counts), counts.sum()
    assert list(found) == KEYS
    assert (found["n"], found["k"], found["max_k_occurrence"]) == (n, k, counts.max())
    assert found["antihub_share"] == pytest.approx((counts == 0).mean())
    assert found["hub_share"] == pytest.approx((counts >= factor * k).mean())
    if total == 0:
        undefined = ("robin_hood", "gini", "atkinson", "hub_occurrence", "groupie_ratio")
        assert [found[name] for name in undefined] == [None] * 5
        return
    mean = counts.mean()
    assert found["robin_hood"] == pytest.approx(np.abs(counts - mean).sum() / (2 * total), abs=1e-12)
    pairs = np.abs(counts[:, None] - counts[None, :]).sum()
    assert found["gini"] == pytest.approx(pairs / (2 * n * n * mean), abs=1e-12)
    assert found["atkinson"] == pytest.approx(1 - np.sqrt(counts).mean() ** 2 / mean, abs=1e-12)
    assert found["hub_occurrence"] == pytest.approx(counts[counts >= factor * k].sum() / total)
    assert found["groupie_ratio"] == pytest.approx(counts.max() / total)


@settings(max_examples=100, deadline=None)
@given(counts=many_counts)
def test_skewness_equals_scipy(counts: Array) -> None:
    found = measures(counts, 5)["skewness"]
    if len(set(counts)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(skew(counts), rel=1e-9, abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(counts=many_counts)
def test_everything_follows_from_the_histogram_alone(counts: Array) -> None:
    values, rows = (np.array(z) for z in json.loads(json.dumps([z.tolist() for z in histogram(counts)])))
    assert rows.sum() == len(counts)
    assert (values * rows).sum() == counts.sum()
    assert measures_of_histogram(values, rows, 5) == measures(counts, 5)
    np.testing.assert_array_equal(lorenz_of_histogram(values, rows, 33), lorenz(counts, 33))


def test_measures_are_plain_numbers_for_json() -> None:
    found = measures(np.array([3, 0, 1, 4, 2]), 2)
    assert json.loads(json.dumps(found)) == found


def test_one_row_has_no_skewness() -> None:
    found = measures(np.array([0]), 5)
    assert (found["n"], found["skewness"], found["gini"], found["antihub_share"]) == (1, None, None, 1.0)


def test_an_even_graph_has_no_hubness() -> None:
    found = measures(np.full(100, 7), 7)
    assert found["skewness"] is None
    assert [found[name] for name in ("robin_hood", "gini", "atkinson", "hub_share")] == pytest.approx([0.0] * 4)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measures(np.array([], dtype=np.int64), 5)


@settings(max_examples=50, deadline=None)
@given(counts=many_counts.filter(lambda c: c.sum() > 0))
def test_gini_is_twice_the_area_above_the_lorenz_curve(counts: Array) -> None:
    points = len(counts) + 1  # a knot at every row: the trapezoid rule is exact
    area = np.trapezoid(lorenz(counts, points), np.linspace(0, 1, points))
    assert measures(counts, 5)["gini"] == pytest.approx(1 - 2 * area, abs=1e-9)


def test_lorenz_is_the_cumulative_share_of_the_sorted_rows() -> None:
    counts = np.array([5, 0, 3, 0, 2])
    np.testing.assert_allclose(lorenz(counts, 6), [0, 0, 0, 0.2, 0.5, 1.0], atol=1e-15)
    np.testing.assert_allclose(lorenz(np.zeros(4, dtype=int), 3), [0, 0.5, 1.0])


def test_k_occurrence_of_blocks_adds_up_bit_for_bit() -> None:
    indices = np.random.default_rng(0).integers(-1, 500, (500, 8))
    whole = k_occurrence(indices, 500)
    for cuts in ([1], [100, 250], [3, 3, 499]):
        parts = [k_occurrence(block, 500) for block in np.split(indices, cuts)]
        np.testing.assert_array_equal(np.sum(parts, axis=0), whole)
    assert whole.dtype == np.int64
    assert whole.sum() == (indices >= 0).sum()


def test_k_occurrence_refuses_rows_that_do_not_exist() -> None:
    with pytest.raises(ValueError, match="0 to 9"):
        k_occurrence(np.array([[1, 10]]), 10)
    with pytest.raises(ValueError, match="0 to 9"):
        k_occurrence(np.array([[1, -2]]), 10)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_mean_k_occurrence_is_exactly_k(metric: Any) -> None:
    x = np.random.default_rng(0).standard_normal((700, 20)).astype(np.float32)
    x[100:200] = x[0]  # exact duplicates: the row itself is excluded by its number, not by its rank
    counts = k_occurrence(knn_graph(x, 7, metric=metric).indices, 700)
    assert counts.mean() == 7.0


def test_a_planted_hub_comes_out_on_top() -> None:
    x = np.random.default_rng(0).standard_normal((2_000, 60)).astype(np.float32)
    x = np.insert(x, 1_234, x.mean(axis=0), axis=0)
    counts = k_occurrence(knn_graph(x, 10, metric="euclidean").indices, len(x))
    assert top_hubs(counts, 3)[0] == 1_234
    assert measures(counts, 10)["max_k_occurrence"] == counts[1_234]


def test_top_hubs_break_ties_by_the_smaller_row() -> None:
    np.testing.assert_array_equal(top_hubs(np.array([1, 5, 0, 5, 7]), 4), [4, 1, 3, 0])
    np.testing.assert_array_equal(top_hubs(np.array([1, 2]), 10), [1, 0])


def gaussian_hubness(d: int, seed: int, metric: Any) -> tuple[Array, Array]:
    x = np.random.default_rng(seed).standard_normal((10_000, d)).astype(np.float32)
    return k_occurrence(knn_graph(x, 5, metric=metric).indices, 10_000), np.linalg.norm(x, axis=1)


REGRESSION = [  # d, skewness, largest N_k, share N_k > 50, antihub share, Robin Hood, rank correlation with |x|
    (3, 0.12, 12, 0.0, 0.002, 0.137, -0.05),
    (10, 0.50, 18, 0.0, 0.059, 0.263, -0.78),
    (20, 2.1, 53, 0.0001, 0.154, 0.402, -0.88),
    (50, 6.8, 217, 0.0086, 0.288, 0.534, -0.89),
    (128, 9.1, 312, 0.0132, 0.390, 0.616, -0.87),
    (512, 12.2, 659, 0.0188, 0.491, 0.685, -0.86),
]


@pytest.mark.parametrize(("d", "skewness", "most", "above", "antihubs", "robin_hood", "rank"), REGRESSION)
def test_hubness_of_gaussian_data(
    d: int, skewness: float, most: int, above: float, antihubs: float, robin_hood: float, rank: float
) -> None:
    """N(0, I), n = 10 000, k = 5, Euclidean: known figures of one sample, within 15 %.

    Antihubs, Robin Hood and the rank correlation hardly differ between samples. Skewness, the largest N_k and the
    share above 50 hang on the few greatest hubs (at d = 50 skewness runs from 5.7 to 9.1 in a dozen samples), so for
    them the known figure must lie within 15 % of the range of three samples. What is near zero has an absolute slack:
    20 rows for shares (20 to 40 antihubs at d = 3), 0.03 for skewness and correlation.
    """
    found = []
    for seed in (0, 1, 2):
        counts, norms = gaussian_hubness(d, seed, "euclidean")
        m = measures(counts, 5)
        found.append(np.array([m["skewness"], m["max_k_occurrence"], (counts > 50).mean()], dtype=float))
        assert m["antihub_share"] == pytest.approx(antihubs, rel=0.15, abs=0.002)
        assert m["robin_hood"] == pytest.approx(robin_hood, rel=0.15)
        assert spearmanr(counts, norms).statistic == pytest.approx(rank, rel=0.15, abs=0.03)
    known, slack = np.array([skewness, most, above]), np.array([0.03, 0.0, 0.002])
    assert (known >= 0.85 * np.min(found, axis=0) - slack).all()
    assert (known <= 1.15 * np.max(found, axis=0) + slack).all()


@pytest.mark.parametrize("d", [3, 50])
def test_scaled_to_unit_length_the_same_data_are_hardly_hubby(d: int) -> None:
    counts, _ = gaussian_hubness(d, 0, "cosine")
    assert measures(counts, 5)["skewness"] == pytest.approx(0.25, abs=0.25)  # known: 0.07 to 0.44
