"""Hubness reduction: candidate lists wider than k, rescored by what each row looks like from its own list.

Two passes over blocks of lists, so that the work distributes. `row_statistics` condenses the list of every
row to a few numbers (`hub_centroids.local_spread` for dissimlocal, which needs vectors); `rescore` then needs
a block of lists and the statistics of all rows, which may be memory maps. Blocks give what the whole gives,
bit for bit.

Candidate lists: `indices` integer [b, w], -1 is padding, without the row itself, best first; `scores` float64
[b, w], similarities for the metrics cosine and inner, distances for euclidean. The k best after rescoring are
ordered best first, ties by the smaller row.

Conventions follow Feldbauer & Flexer 2019 ("A comprehensive empirical comparison of hubness reduction in
high-dimensional spaces") and scikit-hubness: the distance of the cosine metric is `d = 1 - cos`, except for
dissimlocal, which is defined on Euclidean distances and takes those of the unit vectors, `d^2 = 2 - 2 cos`.

The methods, by metric and by what is best:

- csls (cosine, inner; largest): `2 s(x, y) - r(x) - r(y)`, r the mean similarity to the k nearest (Conneau
  et al. 2018, section 2.3).
- localized-centering (cosine, inner; largest): `s(x, y) - r(y)`, for `<y, c_k(y)>`, the product with the
  local centroid, is the mean similarity r (Hara et al. 2015, with exponent 1).
- local-scaling (cosine, euclidean; smallest): `1 - exp(-d^2 / (s_x s_y))`, s the distance to the k-th
  neighbour (Zelnik-Manor & Perona 2005).
- nicdm (cosine, euclidean; smallest): `d / sqrt(m_x m_y)`, m the mean distance to the k nearest (Jegou et
  al. 2007).
- mutual-proximity (all; smallest): `1 - P(D_x > d) P(D_y > d)`, D normal with the mean and the standard
  deviation of the list (Schnitzer et al. 2012).
- mutual-proximity-empirical (all; smallest): 1 minus the share of the list of x that is further than d from
  x and from y (Schnitzer et al. 2012).
- dissimlocal (cosine, euclidean; smallest): `d^2 - |x - c_k(x)|^2 - |y - c_k(y)|^2`, c the mean of the k
  nearest (Hara et al. 2016).
- centering (cosine, inner): a search among `x - mean` (`hub_centroids.center`), no rescoring (Suzuki et al.
  2013).

Mutual proximity asks only how distances are distributed, so it also serves inner products, with `d = -s`.
Methods that divide by distances, or are about Euclidean ones, mean nothing there and are refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.hub_methods import SIMILARITIES, check_reduction
from kxbatch.kernels.mutual_proximity import further_from_both, normal_cdf

Floats = NDArray[np.float64]
Indices = NDArray[np.integer[Any]]

_TINY = float(np.finfo(np.float64).tiny)


def higher_is_better(method: str, metric: str) -> bool:
    """Whether the best score of the method is the largest (a similarity) or the smallest (a distance)."""
    if method in ("none", "centering"):
        return metric in SIMILARITIES
    return method in ("csls", "localized-centering")


def row_statistics(method: str, metric: str, indices: Indices, scores: Floats, k: int) -> Floats:
    """What a method keeps of every row, from the row's own candidate list.

    Args:
        method: any reduction that rescores, except dissimlocal (see `hub_centroids.local_spread`).
        metric: of the scores.
        indices: integer [b, w].
        scores: float64 [b, w].
        k: how many of the nearest make the neighbourhood. Mutual proximity takes the whole list.

    Returns:
        float64 [b, m]: csls, localized-centering: mean similarity (m = 1); local-scaling: distance to the
        k-th neighbour (1); nicdm: mean distance (1); mutual-proximity: mean and standard deviation of the
        distances (2); mutual-proximity-empirical: nothing (0). Rows without neighbours have zeros.

    Raises:
        ValueError: the method does not go with the metric or keeps nothing of the lists, or k is not in 1 to
            w.
    """
    check_reduction(method, metric)
    _check_k(k, indices.shape[1])
    near, score = indices[:, :k] >= 0, scores[:, :k]
    distance = _distances(metric, scores)
    if method in ("csls", "localized-centering"):
        return _mean(score, near)[:, None]
    if method == "nicdm":
        return _mean(distance[:, :k], near)[:, None]
    if method == "local-scaling":
        furthest: Floats = np.where(near, distance[:, :k], 0.0).max(axis=1)[:, None]
        return furthest
    if method == "mutual-proximity":
        return _mean_and_deviation(distance, indices >= 0)
    if method == "mutual-proximity-empirical":
        return np.empty((len(indices), 0))
    raise ValueError(f"'{method}' has no statistics of candidate lists")


def _distances(metric: str, scores: Floats) -> Floats:
    """`1 - cos`, the Euclidean distance as it is, or the negative inner product."""
    if metric == "cosine":
        return np.maximum(1.0 - scores, 0.0)
    return scores if metric == "euclidean" else -scores


def _mean(values: Floats, valid: NDArray[np.bool_]) -> Floats:
    mean: Floats = np.where(valid, values, 0.0).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    return mean


def _mean_and_deviation(distance: Floats, valid: NDArray[np.bool_]) -> Floats:
    mean = _mean(distance, valid)
    deviation = np.sqrt(_mean((distance - mean[:, None]) ** 2, valid))
    # A list of equal distances has deviation 0 up to rounding: dividing by that would rank by rounding.
    return np.stack([mean, np.maximum(deviation, 1e-9 * np.abs(mean))], axis=1)


def rescore(
    method: str,
    metric: str,
    rows: Indices,
    indices: Indices,
    scores: Floats,
    stats: Floats,
    k: int,
    *,
    all_indices: Indices | None = None,
    all_scores: Floats | None = None,
) -> tuple[NDArray[np.int64], Floats]:
    """Rescores a block of candidate lists and keeps the k best of each.

    Args:
        method: any reduction that rescores.
        metric: of the scores.
        rows: integer [b], row numbers of the block in the corpus.
        indices: integer [b, w], their candidates.
        scores: float64 [b, w].
        stats: float64 [n, m], the statistics of all rows.
        k: how many to keep.
        all_indices: integer [n, w], the lists of all rows; mutual-proximity-empirical alone needs them.
        all_scores: float64 [n, w], likewise.

    Returns:
        Row numbers int64 [b, k] and new scores float64 [b, k], best first as `higher_is_better` says, ties by
        the smaller row; padding is at the end, index -1 with -inf beside it for a similarity and inf for a
        distance.

    Raises:
        ValueError: the method does not go with the metric, does not rescore or lacks its lists, or k is not
            in 1 to w.
    """
    check_reduction(method, metric)
    _check_k(k, indices.shape[1])
    padding = indices < 0
    if method == "mutual-proximity-empirical":
        if all_indices is None or all_scores is None:
            raise ValueError("mutual-proximity-empirical wants the candidate lists of all rows")
        sign = -1.0 if metric in SIMILARITIES else 1.0
        new = 1.0 - further_from_both(
            np.asarray(indices), np.asarray(scores), np.asarray(all_indices), np.asarray(all_scores), sign
        )
    else:
        everyone = np.asarray(stats)
        partners = everyone[np.where(padding, 0, indices)]
        new = _pair_scores(method, metric, np.where(padding, 0.0, scores), everyone[rows][:, None, :], partners)
    return _best(indices, new, k, higher_is_better(method, metric))


def _pair_scores(method: str, metric: str, s: Floats, x: Floats, y: Floats) -> Floats:
    """The formulas of the list above; `x` float64 [b, 1, m], `y` [b, w, m] are the statistics of both."""
    if method == "csls":
        return 2.0 * s - x[..., 0] - y[..., 0]
    if method == "localized-centering":
        return s - y[..., 0]
    d = _distances(metric, s)
    if method == "dissimlocal":
        squared = 2.0 * d if metric == "cosine" else d * d
        return squared - x[..., 0] - y[..., 0]
    if method == "mutual-proximity":
        # 1 - (1 - p)(1 - q), written so that the digits of small p and q, which rank the nearest, survive.
        p, q = (normal_cdf(_standardised(d, z)) for z in (x, y))
        return p + q - p * q
    # Duplicates make scales of zero: the smallest number instead keeps 0 / 0 at 0 and the order of the rest.
    scale = np.maximum(x[..., 0] * y[..., 0], _TINY)
    if method == "nicdm":
        return d / np.sqrt(scale)
    if method == "local-scaling":
        with np.errstate(over="ignore"):
            return -np.expm1(-(d * d) / scale)
    raise ValueError(f"'{method}' does not rescore candidate lists")


def _standardised(d: Floats, stats: Floats) -> Floats:
    with np.errstate(over="ignore"):
        z: Floats = (d - stats[..., 0]) / np.maximum(stats[..., 1], _TINY)
    return z


def _best(indices: Indices, scores: Floats, k: int, descending: bool) -> tuple[NDArray[np.int64], Floats]:
    sign = -1.0 if descending else 1.0
    padding = indices < 0
    key = np.where(padding, np.inf, sign * scores)
    tie = np.where(padding, np.iinfo(np.int64).max, indices)
    order = np.lexsort((tie, key), axis=-1)[:, :k]
    best = np.take_along_axis(indices, order, axis=1).astype(np.int64, copy=False)
    return best, sign * np.take_along_axis(key, order, axis=1)


def _check_k(k: int, width: int) -> None:
    if not 1 <= k <= width:
        raise ValueError(f"k = {k} is not possible with candidate lists of width {width}; allowed is 1 to {width}")
