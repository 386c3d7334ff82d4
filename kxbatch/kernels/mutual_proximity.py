"""The two inner loops of mutual proximity: the normal distribution function and the empirical count."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

Floats = NDArray[np.float64]
Rows = NDArray[np.integer[Any]]


@jit
def normal_cdf(z: Floats) -> Floats:
    """Standard normal distribution function, with full relative accuracy in the left tail.

    Args:
        z: float64 [a, b].

    Returns:
        float64 [a, b].
    """
    out = np.empty_like(z)
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            out[i, j] = 0.5 * math.erfc(-z[i, j] * 0.7071067811865476)
    return out


@jit
def further_from_both(indices: Rows, scores: Floats, all_indices: Rows, all_scores: Floats, sign: float) -> Floats:
    """Share of the candidates z of x that are further from x and from y than x and y are from each other.

    A z that the list of y does not name is at least as far from y as the last one named, and counts if that
    is not nearer than x. The time is the square of the width for each row.

    Args:
        indices: integer [b, w], the candidates of the rows x, -1 is padding.
        scores: float64 [b, w].
        all_indices: integer [n, w], the candidates of all rows.
        all_scores: float64 [n, w].
        sign: 1 for distances, -1 for similarities.

    Returns:
        float64 [b, w], 0 at padding.
    """
    width = indices.shape[1]
    out = np.zeros(indices.shape)
    place = np.full(len(all_indices), -1, dtype=np.int64)  # place of a row in the list of x
    for b in range(len(indices)):
        listed = 0
        for c in range(width):
            if indices[b, c] >= 0:
                place[indices[b, c]] = c
                listed += 1
        for c in range(width):
            y = indices[b, c]
            if y < 0:
                continue
            d = sign * scores[b, c]
            far = 0  # further from x
            for j in range(width):
                if indices[b, j] >= 0 and sign * scores[b, j] > d:
                    far += 1
            both, known, last = 0, 0, -np.inf
            for j in range(all_indices.shape[1]):
                z = all_indices[y, j]
                if z < 0:
                    continue
                last = max(last, sign * all_scores[y, j])
                at = place[z]
                if at >= 0 and sign * scores[b, at] > d:
                    known += 1
                    if sign * all_scores[y, j] > d:
                        both += 1
            if last >= d:
                both += far - known
            out[b, c] = both / listed
        for c in range(width):
            if indices[b, c] >= 0:
                place[indices[b, c]] = -1
    return out
