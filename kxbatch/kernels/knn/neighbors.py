"""Lists of nearest neighbours, and how several lists of the same rows become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.compiled import best_of

Metric = Literal["cosine", "inner", "euclidean"]
Precision = Literal["auto", "bf16", "fp32"]


@dataclass(frozen=True)
class Neighbors:
    """The k nearest neighbours of n rows, best first, ties by the smaller index.

    Attributes:
        indices: `[n, k]`; -1 where fewer than k neighbours exist.
        scores: `[n, k]`; similarities falling, or Euclidean distances rising. Beside index -1 stands -inf for a
            similarity and +inf for a distance.
    """

    indices: NDArray[np.int64]
    scores: NDArray[np.float64]


def merge(lists: Sequence[Neighbors], k: int, *, metric: Metric) -> Neighbors:
    """Best k of several lists of the same rows: what one search over all their candidates would have returned.

    Args:
        lists: at least one; row i of each is about the same row. A candidate stands in at most one of them.
        k: length of the result; longer than the lists together leaves padding.
        metric: says which end of the scores is the best.

    Returns:
        `[n, k]`, best first, ties by the smaller index, padding last.

    Raises:
        ValueError: no list, or lists of different numbers of rows.
    """
    if not lists:
        raise ValueError("merge needs at least one list of neighbours")
    rows = {len(one.indices) for one in lists}
    if len(rows) > 1:
        raise ValueError(f"lists of neighbours must be about the same rows; they have {sorted(rows)} rows")
    sign = -1.0 if metric == "euclidean" else 1.0
    indices = np.concatenate([one.indices for one in lists], axis=1)
    scores = sign * np.concatenate([one.scores for one in lists], axis=1)
    best, who = empty_lists(len(indices), k)
    best_of(scores, indices, best, who)
    return Neighbors(who, sign * best)


def empty_lists(n: int, k: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Scores (-inf) and indices (-1) of lists that hold nothing yet, each `[n, k]`."""
    return np.full((n, k), -np.inf), np.full((n, k), -1, np.int64)
