"""The float64 score of a pair of rows, the same bits on every machine, and the k best of many.

A sum runs over `LANES` interleaved partial sums that are then added by halving. The product of two float32 numbers is
exact in float64, so a fused multiply-add would change nothing, and zeros appended to a row change nothing either.
Inside this package larger is better: a Euclidean distance is scored as its negative.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.jit import jit

LANES = 32


@jit
def _add_up(lanes: NDArray[np.float64]) -> float:
    """Sum of the lanes as a tree of fixed shape; the lanes are used up."""
    half = lanes.shape[0] // 2
    while half:
        for q in range(half):
            lanes[q] += lanes[q + half]
        half //= 2
    return lanes[0]


@jit
def squared_norms(x: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Squared norms, summed in the order of `score_rows`.

    Args:
        x: `[n, d]`.
        rows: `[m]` rows of `x`.
        out: `[m]`, receives the result.
    """
    lanes = np.zeros(LANES)
    for r in range(rows.shape[0]):
        lanes[:] = 0.0
        for start in range(0, x.shape[1], LANES):
            for q in range(start, min(start + LANES, x.shape[1])):
                lanes[q - start] += np.float64(x[rows[r], q]) * np.float64(x[rows[r], q])
        out[r] = _add_up(lanes)


@jit
def score_rows(
    x: NDArray[np.float32],
    weight: NDArray[np.float64],
    euclidean: bool,
    i: int,
    others: NDArray[np.int32],
    lanes: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Scores row i against other rows.

    Args:
        x: `[n, groups, LANES]`, rows padded with zeros.
        weight: `[n]`; a product is multiplied with `weight[i] * weight[j]` (inverse norms make it a cosine).
        euclidean: score by minus the distance instead.
        i: a row of `x`.
        others: `[m]` rows of `x`.
        lanes: `[LANES]`, scratch.
        out: `[m]` or more, receives the scores.
    """
    for a in range(others.shape[0]):
        j = others[a]
        lanes[:] = 0.0
        if euclidean:
            for g in range(x.shape[1]):
                for q in range(LANES):
                    gap = np.float64(x[i, g, q]) - np.float64(x[j, g, q])
                    lanes[q] += gap * gap
            out[a] = -np.sqrt(_add_up(lanes))
        else:
            for g in range(x.shape[1]):
                for q in range(LANES):
                    lanes[q] += np.float64(x[i, g, q]) * np.float64(x[j, g, q])
            out[a] = _add_up(lanes) * (weight[i] * weight[j])


@jit
def _worse(score: float, index: int, other_score: float, other_index: int) -> bool:
    return score < other_score or (score == other_score and index > other_index)


@jit
def _sink(scores: NDArray[np.float64], indices: NDArray[np.int64], size: int) -> None:
    """Restores the heap after its top changed."""
    score, index, hole = scores[0], indices[0], 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and _worse(scores[child + 1], indices[child + 1], scores[child], indices[child]):
            child += 1
        if not _worse(scores[child], indices[child], score, index):
            break
        scores[hole], indices[hole] = scores[child], indices[child]
        hole = child
    scores[hole], indices[hole] = score, index


@jit
def offer(scores: NDArray[np.float64], indices: NDArray[np.int64], size: int, score: float, index: int) -> int:
    """Offers a candidate to a bounded heap that keeps the best: larger score first, then smaller index.

    Args:
        scores: `[k]`, the worst kept on top.
        indices: `[k]`, whose scores they are.
        size: how many are kept now.
        score: of the candidate.
        index: of the candidate.

    Returns:
        How many are kept afterwards.
    """
    if size == scores.shape[0]:
        if _worse(scores[0], indices[0], score, index):
            scores[0], indices[0] = score, index
            _sink(scores, indices, size)
        return size
    hole = size
    while hole:
        parent = (hole - 1) // 2
        if not _worse(score, index, scores[parent], indices[parent]):
            break
        scores[hole], indices[hole] = scores[parent], indices[parent]
        hole = parent
    scores[hole], indices[hole] = score, index
    return size + 1


@jit
def best_first(scores: NDArray[np.float64], indices: NDArray[np.int64], size: int) -> None:
    """Sorts what `offer` kept, in place, best first."""
    for last in range(size - 1, 0, -1):
        scores[0], scores[last] = scores[last], scores[0]
        indices[0], indices[last] = indices[last], indices[0]
        _sink(scores, indices, last)
