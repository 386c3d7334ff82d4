"""Sampling latents that are hubs among their like.

For generators whose output is a deterministic function of a latent. Hubs of a Gaussian sample lie close to
its mean, where generators do best (Liang et al., ICML 2022, "Exploring and Exploiting Hubness Priors for
High-Quality GAN Latent Sampling"). Plain truncation keeps short latents instead and is the peer to compare
with at the same acceptance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import FatalError
from kxbatch.kernels.hub_measures import k_occurrence
from kxbatch.kernels.knn import Metric, knn_graph

Latents = NDArray[np.float32]
Scores = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class HubSample:
    """Latents that passed.

    Attributes:
        latents: float32 [count, dim].
        k_occurrence: int64 [count], of each within the pool it was drawn in.
        rounds: number of pools drawn.
        acceptance: share of all latents drawn that passed the threshold.
    """

    latents: Latents
    k_occurrence: NDArray[np.int64]
    rounds: int
    acceptance: float


def sample_hubs(
    dim: int,
    count: int,
    seed: int | Sequence[int],
    *,
    pool: int = 10_000,
    k: int = 5,
    threshold: int | None = None,
    quantile: float | None = None,
    max_rounds: int = 20,
    metric: Metric = "euclidean",
    threads: int = 1,
) -> HubSample:
    """Draws pools of `N(0, I)` latents and keeps those with a large k-occurrence within their pool.

    The k-occurrence counts the other latents of the pool, never the latent itself. With Euclidean distance it
    needs width: at `dim <= 20` next to nothing reaches the threshold of 50 in pools of 10 000. Scaled to
    length 1 (the cosine metric) latents are hardly hubs at any width.

    Args:
        dim: width of a latent.
        count: how many to return.
        seed: the same seed gives the same latents; round r draws from the stream (seed, r), or (*seed, r) of several numbers.
        pool: latents drawn in a round.
        k: length of the neighbour lists.
        threshold: smallest k-occurrence kept; 50 if neither this nor `quantile` is given.
        quantile: in place of a threshold, keep those at or above this quantile of each pool, e.g. 0.99.
        max_rounds: give up after this many pools.
        metric: of the neighbour lists.
        threads: for the neighbour search.

    Returns:
        The first `count` that passed, in the order drawn.

    Raises:
        ValueError: both a threshold and a quantile, or a number out of range.
        FatalError: the round limit came first; names the acceptance rate and the largest k-occurrence seen.
    """
    if threshold is not None and quantile is not None:
        raise ValueError("give a threshold or a quantile, not both")
    if not (dim >= 1 and count >= 1 and max_rounds >= 1 and 1 <= k < pool):
        raise ValueError(
            f"dim, count and max_rounds must be at least 1 and k in 1 to pool - 1, "
            f"got {dim}, {count}, {max_rounds}, k = {k}, pool = {pool}"
        )
    least = 50 if threshold is None else threshold

    def occurrence(latents: Latents) -> tuple[Scores, float]:
        counts = k_occurrence(knn_graph(latents, k, metric=metric, threads=threads).indices, pool)
        return counts.astype(np.float64), least if quantile is None else _quantile(counts, quantile)

    drawn = _collect(dim, count, seed, pool, max_rounds, occurrence)
    if len(drawn.latents) < count:
        wanted = f"k-occurrence >= {least}" if quantile is None else f"the {quantile} quantile"
        raise FatalError(
            f"hub sampling kept {len(drawn.latents)} of {count} latents in {drawn.rounds} rounds of {pool}: "
            f"{drawn.acceptance:.3%} reach {wanted} (dim = {dim}, k = {k}, {metric}), the largest "
            f"k-occurrence seen is {drawn.highest:.0f}. Lower the threshold, use a quantile, or allow more rounds"
        )
    return HubSample(drawn.latents, drawn.scores.astype(np.int64), drawn.rounds, drawn.acceptance)


def truncate(dim: int, count: int, seed: int | Sequence[int], *, acceptance: float, pool: int = 10_000) -> Latents:
    """Draws pools of `N(0, I)` latents and keeps the shortest: the peer of `sample_hubs` at equal acceptance.

    The pools are those that `sample_hubs` draws with the same seed.

    Args:
        dim: width of a latent.
        count: how many to return.
        seed: the same seed gives the same latents.
        acceptance: share of each pool to keep (at least one latent), as reported by `HubSample.acceptance`.
        pool: latents drawn in a round.

    Returns:
        float32 [count, dim], in the order drawn.

    Raises:
        ValueError: a number is out of range.
    """
    if not (0.0 < acceptance <= 1.0 and dim >= 1 and count >= 1 and pool >= 1):
        raise ValueError(
            f"acceptance must lie above 0 and up to 1, and dim, count and pool be at least 1, "
            f"got {acceptance}, {dim}, {count}, {pool}"
        )
    keep = max(1, round(acceptance * pool))

    def closeness(latents: Latents) -> tuple[Scores, float]:
        scores = -np.linalg.norm(latents.astype(np.float64), axis=1)
        return scores, float(np.partition(scores, pool - keep)[pool - keep])

    return _collect(dim, count, seed, pool, -(-count // keep), closeness).latents


def _quantile(counts: NDArray[np.int64], quantile: float) -> float:
    if not 0.0 <= quantile < 1.0:
        raise ValueError(f"the quantile must lie in 0 to 1 (without 1), got {quantile}")
    return float(np.quantile(counts, quantile))


@dataclass(frozen=True, eq=False)
class _Drawn:
    """What came of the rounds: at most as many latents as asked for, and the highest score of any drawn."""

    latents: Latents
    scores: Scores
    rounds: int
    acceptance: float
    highest: float


def _collect(
    dim: int,
    count: int,
    seed: int | Sequence[int],
    pool: int,
    max_rounds: int,
    score: Callable[[Latents], tuple[Scores, float]],
) -> _Drawn:
    """Draws pools until `count` latents score at least the threshold that `score` gives with the scores."""
    kept: list[Latents] = []
    scores: list[Scores] = []
    accepted, highest, rounds = 0, -np.inf, 0
    stream = [seed] if isinstance(seed, int) else list(seed)
    while accepted < count and rounds < max_rounds:
        latents = np.random.default_rng([*stream, rounds]).standard_normal((pool, dim), dtype=np.float32)
        values, least = score(latents)
        passed = values >= least
        kept.append(latents[passed])
        scores.append(values[passed])
        accepted += int(passed.sum())
        highest = max(highest, float(values.max()))
        rounds += 1
    return _Drawn(
        latents=np.concatenate(kept)[:count],
        scores=np.concatenate(scores)[:count],
        rounds=rounds,
        acceptance=accepted / (rounds * pool),
        highest=highest,
    )
