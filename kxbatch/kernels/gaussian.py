"""Log-density and Mahalanobis distance of rows under the Gaussian with the corpus's own moments.

Both live on the numerical-rank subspace: directions whose eigenvalue is not above the floor carry no density,
and what a row has there is left out of account. With full rank this is the ordinary density.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kxbatch.kernels.moments import BLOCK, Floats, Moments, Rows
from kxbatch.kernels.whitening import FLOOR, decompose


@dataclass(frozen=True, eq=False)
class Gaussian:
    """A normal distribution on a subspace.

    Attributes:
        mean: float64 [d].
        whitener: float64 [d, rank]; `(x - mean) @ whitener` is standard normal.
        log_peak: log-density at the mean, in nats.
    """

    mean: Floats
    whitener: Floats
    log_peak: float


def fit_gaussian(moments: Moments, floor: float = FLOOR) -> Gaussian:
    """The Gaussian of maximum likelihood (covariance `scatter / n`), straight from the moments.

    Args:
        moments: of the rows it describes.
        floor: eigenvalues not above `floor * lambda[0]` count as zero.

    Raises:
        ValueError: the rows have no spread.
    """
    basis = decompose(moments, 1.0, floor)
    values = basis.eigenvalues[: basis.rank]
    log_peak = -0.5 * (basis.rank * np.log(2.0 * np.pi) + np.log(values).sum())
    return Gaussian(moments.mean, basis.eigenvectors[:, : basis.rank] / np.sqrt(values), float(log_peak))


def mahalanobis(gaussian: Gaussian, x: Rows) -> Floats:
    """Mahalanobis distance of rows from the mean, in standard deviations.

    Computed in float64, 8192 rows at a time.

    Args:
        gaussian: as fitted.
        x: floating point [n, d].

    Returns:
        float64 [n], not squared.

    Raises:
        ValueError: the width does not fit.
    """
    if x.ndim != 2 or x.shape[1] != len(gaussian.mean):
        raise ValueError(f"the density wants rows of width {len(gaussian.mean)}, got an array {list(x.shape)}")
    out = np.empty(len(x))
    for start in range(0, len(x), BLOCK):
        z = (x[start : start + BLOCK] - gaussian.mean) @ gaussian.whitener
        out[start : start + BLOCK] = np.sqrt(np.einsum("ij,ij->i", z, z))
    return out


def log_density(gaussian: Gaussian, x: Rows) -> Floats:
    """`log N(x; mean, covariance) = log_peak - mahalanobis^2 / 2`, in nats.

    Args:
        gaussian: as fitted.
        x: floating point [n, d].

    Returns:
        float64 [n], with respect to the volume of the subspace.

    Raises:
        ValueError: the width does not fit.
    """
    return gaussian.log_peak - 0.5 * mahalanobis(gaussian, x) ** 2
