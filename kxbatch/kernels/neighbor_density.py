"""log p(x) from distances to nearest neighbours.

The k-th neighbour of a row lies at distance r among n - 1 others: `log p = psi(k) - psi(n) - log V_d - d log r`, with V_d the
volume of the unit ball (Loftsgaarden and Quesenberry 1965). The digamma function psi stands in the place of the logarithm, which
makes the mean of `log p` consistent (Kozachenko and Leonenko 1987). Unit vectors live on a sphere, whose dimension is one less.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Metric = Literal["cosine", "euclidean"]
_SMALLEST = {"euclidean": 2.0**-24, "cosine": 2.0**-12}  # what float32 scores can tell from 0


def neighbor_log_density(scores: npt.NDArray[np.floating], metric: Metric, n: int, dim: int) -> Floats:
    """Log-density of rows from the scores of their neighbours.

    Args:
        scores: floating [m, k], best first, NaN where there are fewer; rising distances, or falling cosines.
        metric: which of the two.
        n: rows that were searched, the row itself counted.
        dim: length of the vectors.

    Returns:
        float64 [m], nats, with respect to volume (cosine: to area on the unit sphere); NaN without any neighbour. Equal rows
        count as 2^-24 apart (cosine: 2^-12), for float32 cannot tell less.
    """
    known = np.isfinite(scores).sum(axis=1)
    last = np.take_along_axis(scores, np.maximum(known - 1, 0)[:, None], axis=1)[:, 0].astype(np.float64)
    radius = np.sqrt(np.maximum(2.0 - 2.0 * last, 0.0)) if metric == "cosine" else last
    radius = np.maximum(radius, _SMALLEST[metric])
    manifold = dim - 1 if metric == "cosine" else dim
    log_ball = 0.5 * manifold * math.log(math.pi) - math.lgamma(0.5 * manifold + 1)
    terms = np.array([math.nan, *(_digamma(k) for k in range(1, scores.shape[1] + 1))])
    found: Floats = terms[known] - _digamma(max(n, 1)) - log_ball - manifold * np.log(radius)
    return found


def _digamma(n: int) -> float:
    """Digamma of a positive integer: `log n - 1/2n - 1/12n^2 + 1/120n^4 - ...`, after `psi(n) = psi(n + 1) - 1/n` below 8."""
    shift = 0.0
    while n < 8:
        shift -= 1.0 / n
        n += 1
    square = 1.0 / (n * n)
    return shift + math.log(n) - 0.5 / n - square * (1 / 12 - square * (1 / 120 - square / 252))
