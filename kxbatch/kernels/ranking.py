"""How well scores rank what they should find, and how far two of them agree about what comes last.

n counts rows. Equal scores are one step of a ranking, so that no order of the rows changes a measure.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kxbatch.kernels.correlation import average_ranks
from kxbatch.kernels.moments import Floats


def auroc(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Area under the ROC curve: chance that a positive row scores above a negative one, a tie counting half.

    The rank-sum form of Hanley and McNeil (1982): `(R - p (p + 1) / 2) / (p q)`, R the sum of the positives' average ranks,
    p positives and q negatives.

    Args:
        scores: [n], larger for what should be found; infinite scores are ranked, too.
        positive: [n] booleans.

    Returns:
        0 to 1, one half for a ranking that says nothing; None without a positive or without a negative.

    Raises:
        ValueError: the lengths differ or a score is NaN.
    """
    values, found = _checked(scores, positive)
    p = int(np.count_nonzero(found))
    q = len(found) - p
    if not p or not q:
        return None
    ranks = float(average_ranks(values)[found].sum())
    return (ranks - p * (p + 1) / 2) / p / q


def average_precision(scores: ArrayLike, positive: ArrayLike) -> float | None:
    """Average precision: `sum_t (R_t - R_t-1) P_t` over the distinct scores t, falling (Manning et al., 2008, 8.4).

    Args:
        scores: [n], larger for what should be found; infinite scores are ranked, too.
        positive: [n] booleans.

    Returns:
        0 to 1, about the share of positives for a ranking that says nothing; None without a positive.

    Raises:
        ValueError: the lengths differ or a score is NaN.
    """
    values, found = _checked(scores, positive)
    _, step, rows = np.unique(values, return_inverse=True, return_counts=True)
    hits = np.bincount(step, found, minlength=len(rows))[::-1]
    if not hits.any():
        return None
    precision = np.cumsum(hits) / np.cumsum(rows[::-1])
    return float((hits @ precision) / hits.sum())


def lowest_overlap(a: ArrayLike, b: ArrayLike, share: float) -> float | None:
    """Share of the lowest values of `a` that are among the lowest of `b`; by chance it is about `share`.

    Args:
        a: [n], without NaN.
        b: [n], without NaN; the same rows.
        share: of the rows that count as lowest; at least one does. Of equal values the first do.

    Returns:
        0 to 1; None without a row.

    Raises:
        ValueError: the lengths differ.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"an overlap wants two vectors of one length, got {list(x.shape)} and {list(y.shape)}")
    if not len(x):
        return None
    count = max(1, round(share * len(x)))
    first, second = (np.argsort(values, kind="stable")[:count] for values in (x, y))
    return len(np.intersect1d(first, second)) / count


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    values, found = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.ndim != 1 or values.shape != found.shape:
        raise ValueError(f"a ranking wants a label for each score, got {list(values.shape)} and {list(found.shape)}")
    if np.isnan(values).any():
        raise ValueError("a ranking wants numbers, got NaN")
    return values, found
