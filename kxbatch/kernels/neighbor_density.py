"""log p(x) from distances to nearest neighbours.

The k-th neighbour of a row is the farthest of k inside a ball of volume V, among n - 1 others: `log p = psi(k) - psi(n) - log V`
(Loftsgaarden and Quesenberry 1965). The digamma function psi stands in the place of the logarithm, which makes the mean of `log p`
consistent (Kozachenko and Leonenko 1987). V is `V_d r^d` at distance r; unit vectors live on a sphere, where it is the area of a
cap, `S/2 I(sin^2 t; (d-1)/2, 1/2)` up to the right angle, with I the regularised incomplete beta function and S the area of the
whole (Li 2011).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.special import betainc, betaln, digamma

Floats = npt.NDArray[np.float64]
Metric = Literal["cosine", "euclidean"]
_SMALLEST = {"euclidean": 2.0**-24, "cosine": 2.0**-12}  # what float32 scores can tell from 0
_UNDERFLOWN = 1e-250
_TERMS = 60  # of a series that is needed for small caps in many dimensions alone


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
    log_volume = _log_cap(last, dim) if metric == "cosine" else _log_ball(last, dim)
    counts = np.where(known > 0, digamma(np.maximum(known, 1)), math.nan)
    found: Floats = counts - digamma(max(n, 1)) - log_volume
    return found


def _log_ball(radius: Floats, dim: int) -> Floats:
    """Logarithm of the volume of balls."""
    unit = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    found: Floats = unit + dim * np.log(np.maximum(radius, _SMALLEST["euclidean"]))
    return found


def _log_cap(cosine: Floats, dim: int) -> Floats:
    """Logarithm of the area of the caps of the unit sphere that reach up to a cosine."""
    whole = math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)
    nearest = 1 - 0.5 * _SMALLEST["cosine"] ** 2  # the cosine of two unit vectors so far apart
    cosine = np.clip(cosine, -1.0, nearest)
    squared_sine = (1 - cosine) * (1 + cosine)
    log_share = _log_betainc(0.5 * (dim - 1), squared_sine) - math.log(2)
    found: Floats = whole + np.where(cosine >= 0, log_share, np.log1p(-np.exp(log_share)))
    return found


def _log_betainc(a: float, x: Floats) -> Floats:
    """`log I(x; a, 1/2)`; where I is too small for a float64, x^a is, and the hypergeometric series for it is short."""
    plain = betainc(a, 0.5, x)
    term, total = np.ones_like(x), np.ones_like(x)
    for j in range(_TERMS):
        term = term * x * (a + 0.5 + j) / (a + 1 + j)
        total += term
    with np.errstate(divide="ignore"):
        series = a * np.log(x) + 0.5 * np.log1p(-np.minimum(x, 0.5)) - math.log(a) - betaln(a, 0.5) + np.log(total)
        found: Floats = np.where(plain > _UNDERFLOWN, np.log(np.maximum(plain, _UNDERFLOWN)), series)
    return found
