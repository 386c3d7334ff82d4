from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from kxbatch.errors import FatalError
from kxbatch.kernels.hub_measures import k_occurrence
from kxbatch.kernels.hub_prior import sample_hubs, truncate
from kxbatch.kernels.knn import knn_graph

SMALL: dict[str, Any] = {"pool": 2_000, "k": 5, "threshold": 30}


def brute_k_occurrence(x: Any, k: int) -> Any:
    """k-occurrence by float64 distances of all pairs, the row itself left out by its number."""
    wide = x.astype(np.float64)
    squares = (wide**2).sum(axis=1)
    distance = squares[:, None] + squares[None] - 2 * wide @ wide.T
    np.fill_diagonal(distance, np.inf)
    return k_occurrence(np.argpartition(distance, k, axis=1)[:, :k], len(x))


def test_what_is_kept_are_the_hubs_of_the_pools() -> None:
    found = sample_hubs(64, 150, seed=3, **SMALL)
    assert found.latents.shape == (150, 64)
    assert found.latents.dtype == np.float32
    assert found.k_occurrence.min() >= 30
    expected, counts, accepted = [], [], 0
    for r in range(found.rounds):
        pool = np.random.default_rng([3, r]).standard_normal((2_000, 64), dtype=np.float32)
        n_k = brute_k_occurrence(pool, 5)
        expected.append(pool[n_k >= 30])
        counts.append(n_k[n_k >= 30])
        accepted += int((n_k >= 30).sum())
    assert found.rounds > 1
    np.testing.assert_array_equal(found.latents, np.concatenate(expected)[:150])
    np.testing.assert_array_equal(found.k_occurrence, np.concatenate(counts)[:150])
    assert found.acceptance == accepted / (2_000 * found.rounds)


def test_the_seed_decides() -> None:
    one, again, other = (sample_hubs(64, 10, seed=s, **SMALL) for s in (1, 1, 2))
    assert one.latents.tobytes() == again.latents.tobytes()
    assert one.latents.tobytes() != other.latents.tobytes()
    longer = sample_hubs(64, 20, seed=1, **SMALL)
    np.testing.assert_array_equal(longer.latents[:10], one.latents)


def test_a_quantile_accepts_its_share() -> None:
    found = sample_hubs(16, 50, seed=0, pool=2_000, quantile=0.95)
    assert 0.05 <= found.acceptance < 0.08  # ties at the quantile are kept


def test_hubs_are_short() -> None:
    """Close to the mean means close to everything."""
    found = sample_hubs(64, 50, seed=0, **SMALL)
    assert np.linalg.norm(found.latents, axis=1).mean() < np.sqrt(64) - 1.0


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_no_hubs_end_in_an_error_with_the_figures(metric: Any) -> None:
    with pytest.raises(FatalError) as raised:
        sample_hubs(3, 5, seed=0, pool=1_000, max_rounds=2, metric=metric)
    words = str(raised.value)
    pools = [np.random.default_rng([0, r]).standard_normal((1_000, 3), dtype=np.float32) for r in (0, 1)]
    largest = max(int(k_occurrence(knn_graph(p, 5, metric=metric).indices, 1_000).max()) for p in pools)
    assert "0 of 5 latents in 2 rounds of 1000" in words
    assert "0.000%" in words
    assert re.search(rf"largest k-occurrence seen is {largest}\b", words)


def test_twenty_dimensions_accept_next_to_nothing_at_the_default_threshold() -> None:
    with pytest.raises(FatalError, match="threshold"):
        sample_hubs(20, 1_000, seed=0, max_rounds=1)


def test_truncation_keeps_the_shortest_of_the_same_pools() -> None:
    kept = truncate(8, 30, seed=5, acceptance=0.01, pool=1_000)
    assert kept.shape == (30, 8)
    for r in range(3):
        pool = np.random.default_rng([5, r]).standard_normal((1_000, 8), dtype=np.float32)
        norms = np.linalg.norm(pool, axis=1)
        shortest = np.sort(np.argsort(norms)[:10])  # in the order drawn
        np.testing.assert_array_equal(kept[10 * r : 10 * r + 10], pool[shortest])


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="not both"):
        sample_hubs(4, 1, seed=0, threshold=3, quantile=0.5)
    with pytest.raises(ValueError, match="k = 10"):
        sample_hubs(4, 1, seed=0, pool=10, k=10)
    with pytest.raises(ValueError, match="quantile must lie"):
        sample_hubs(4, 1, seed=0, pool=100, quantile=1.0)
    with pytest.raises(ValueError, match="acceptance"):
        truncate(4, 1, seed=0, acceptance=0.0)
