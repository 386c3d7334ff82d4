"""Hubness of a nearest-neighbour graph: k-occurrence and what its distribution says.

The k-occurrence `N_k(i)` is the number of rows that have row i among their k nearest neighbours (Radovanovic,
Nanopoulos & Ivanovic, JMLR 2010). It adds up over blocks of queries. Every measure depends on the
distribution of `N_k` alone, so all of them are computed from its histogram, in time of the number of distinct
values.

In a graph of the corpus with itself the mean of `N_k` is exactly k (fewer where lists are padded because the
corpus has no k other rows). In a graph of q queries against n rows it is `k q / n`; the measures that compare
with an even distribution use the true mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

Counts = NDArray[np.integer[Any]]
Measures = dict[str, float | int | None]


def k_occurrence(indices: Counts, n: int) -> NDArray[np.int64]:
    """How often each of `n` rows occurs in neighbour lists; counts of blocks of lists add up.

    Args:
        indices: integer [b, k], row numbers below `n`; -1 is padding.
        n: number of rows of the corpus.

    Returns:
        int64 [n].

    Raises:
        ValueError: a row number is not in -1 to n - 1.
    """
    flat = indices.ravel()
    if flat.size and (flat.min() < -1 or flat.max() >= n):
        raise ValueError(f"neighbour lists name rows {flat.min()} to {flat.max()}; allowed is 0 to {n - 1}, or -1")
    return np.bincount(flat[flat >= 0], minlength=n).astype(np.int64, copy=False)


def histogram(counts: Counts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The distribution of the k-occurrence.

    Args:
        counts: integer [n].

    Returns:
        The distinct values, ascending, and the number of rows that have each: int64 [m], int64 [m].
    """
    values, rows = np.unique(counts, return_counts=True)
    return values.astype(np.int64), rows.astype(np.int64)


def measures(counts: Counts, k: int, hub_factor: float = 2.0) -> Measures:
    """Every measure of hubness of one graph; `measures_of_histogram` says which.

    Args:
        counts: integer [n], the k-occurrence of every row.
        k: length of the neighbour lists.
        hub_factor: a hub has `N_k >= hub_factor * k`.
    """
    return measures_of_histogram(*histogram(counts), k, hub_factor)


def measures_of_histogram(values: Counts, rows: Counts, k: int, hub_factor: float = 2.0) -> Measures:
    """Every measure of hubness, from the histogram alone. What is undefined is None.

    Args:
        values: integer [m], distinct k-occurrences, ascending.
        rows: integer [m], how many rows have each.
        k: length of the neighbour lists.
        hub_factor: a hub has `N_k >= hub_factor * k`.

    Returns:
        n and k, and with mean, std over the n rows (names as in scikit-hubness):
        skewness: `E[(N_k - mean)^3] / std^3` (Radovanovic et al. 2010).
        robin_hood: `1/2 sum |N_k - mean| / sum N_k`, the share that would have to be moved for equality.
        gini: 0 (even) to `1 - 1/n`, by the sort formula.
        atkinson: with epsilon 1/2, `1 - (mean of sqrt N_k)^2 / mean`.
        antihub_share: share of rows with `N_k = 0`.
        hub_share: share of rows that are hubs.
        hub_occurrence: share of all list places that hubs take.
        max_k_occurrence: largest `N_k`.
        groupie_ratio: largest `N_k / sum N_k`, the share of the list places that one row takes.

    Raises:
        ValueError: there are no rows.
    """
    if len(values) == 0:
        raise ValueError("hubness of no rows is not defined")
    v, r = values.astype(np.float64), rows.astype(np.float64)
    n, total = r.sum(), (v * r).sum()
    hubs = v >= hub_factor * k

    def share(part: float) -> float | None:
        return float(part / total) if total > 0 else None

    return {
        "n": int(n),
        "k": k,
        "skewness": _skewness(v, r),
        "robin_hood": share(0.5 * float((np.abs(v - total / n) * r).sum())),
        "gini": _gini(v, r),
        "atkinson": None if total == 0 else float(1.0 - ((np.sqrt(v) * r).sum() / n) ** 2 / (total / n)),
        "antihub_share": float(r[v == 0].sum() / n),
        "hub_share": float(r[hubs].sum() / n),
        "hub_occurrence": share(float((v * r)[hubs].sum())),
        "max_k_occurrence": int(values[-1]),
        "groupie_ratio": share(float(v[-1])),
    }


def _skewness(v: Floats, r: Floats) -> float | None:
    n = r.sum()
    deviation = v - (v * r).sum() / n
    variance = (deviation**2 * r).sum() / n
    return float((deviation**3 * r).sum() / n / variance**1.5) if len(v) > 1 else None


def _gini(v: Floats, r: Floats) -> float | None:
    """`sum_i (2 i - n - 1) x_i / (n sum x)` over ascending x; equal values are taken together.

    With `a` rows before a group of `r`, the weights of the group add up to `r (2 a + r - n)`.
    """
    n, total = r.sum(), (v * r).sum()
    before = np.cumsum(r) - r
    return float((v * r * (2.0 * before + r - n)).sum() / (n * total)) if total > 0 else None


def lorenz(counts: Counts, points: int = 101) -> Floats:
    """Lorenz curve of the k-occurrence; see `lorenz_of_histogram`."""
    return lorenz_of_histogram(*histogram(counts), points)


def lorenz_of_histogram(values: Counts, rows: Counts, points: int = 101) -> Floats:
    """Lorenz curve: the share of all list places that the least frequent share p of the rows takes.

    Args:
        values: integer [m], distinct k-occurrences, ascending.
        rows: integer [m], how many rows have each.
        points: number of evenly spaced p in 0 to 1.

    Returns:
        float64 [points]; the diagonal if no row occurs at all.
    """
    x = np.concatenate([[0.0], np.cumsum(rows) / np.sum(rows)])
    total = float(np.sum(values * rows))
    y = np.concatenate([[0.0], np.cumsum(values * rows) / total]) if total > 0 else x
    curve: Floats = np.interp(np.linspace(0.0, 1.0, points), x, y)
    return curve


def top_hubs(counts: Counts, limit: int) -> NDArray[np.int64]:
    """The rows of largest k-occurrence, largest first, ties by the smaller row.

    Args:
        counts: integer [n].
        limit: how many.

    Returns:
        int64 [min(limit, n)].
    """
    return np.argsort(-counts.astype(np.int64), kind="stable")[:limit].astype(np.int64)
