"""How far new rows have moved from the rows a transform was fitted on, from the moments of both alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kxbatch.kernels.moments import Floats, Moments, second_moment
from kxbatch.kernels.whitening import FLOOR, decompose


@dataclass(frozen=True)
class Drift:
    """Distance between stored and new moments.

    Attributes:
        n_stored: rows behind the stored moments.
        n_new: rows behind the new moments.
        mean_shift: `sqrt((m' - m) S^+ (m' - m)^T)`, the Mahalanobis length of the difference of the means in
            standard deviations of the stored rows; eigenvalues of S are raised to `1e-9` of the largest.
        covariance_distance: `|S' - S|_F / |S|_F`.
        frechet: `frechet(stored, new)`, in squared units of the rows.
        sampling_noise: what `frechet` would be on average between two samples of these sizes from one
            Gaussian.
        score: `max(0, frechet - sampling_noise) / trace(S)`, the number to hold against a threshold.

    The score is the share of the stored variance that would have to be moved to turn the stored rows into the
    new ones. It has no unit, sees means and covariances alike, weighs directions by their variance (drift in
    a direction without variance is not amplified) and, with the noise taken off, does not alarm because a new
    shard is small. 0.01 is a slight, 0.1 a strong drift.
    """

    n_stored: int
    n_new: int
    mean_shift: float
    covariance_distance: float
    frechet: float
    sampling_noise: float
    score: float


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet (2-Wasserstein) distance between the Gaussians with these moments.

    `|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a^1/2 S_b S_a^1/2)^1/2)` (Dowson & Landau 1982; the "FID"
    form). The trace of the root is the sum of singular values of `S_a^1/2 S_b^1/2`: a root of computed
    eigenvalues would leave only half of the digits.

    Returns:
        The distance in squared units of the rows, not negative.

    Raises:
        ValueError: one of them is of no rows, or the widths differ.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(f"cannot compare moments of width {len(a.mean)} and {len(b.mean)}")
    cov_a, cov_b = second_moment(a, 1.0), second_moment(b, 1.0)
    cross = float(np.linalg.svd(_root(cov_a) @ _root(cov_b), compute_uv=False).sum())
    delta = a.mean - b.mean
    return max(0.0, float(delta @ delta + np.trace(cov_a) + np.trace(cov_b)) - 2.0 * cross)


def _root(covariance: Floats) -> Floats:
    values, vectors = np.linalg.eigh(covariance)
    root: Floats = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def drift(stored: Moments, new: Moments) -> Drift:
    """Compares new rows with the rows a transform was fitted on.

    Args:
        stored: moments behind the transform in use.
        new: moments of the rows that came since.

    Raises:
        ValueError: one of them is of no rows, the widths differ, or the stored rows have no spread.
    """
    distance = frechet(stored, new)
    basis = decompose(stored, 1.0)
    values = np.maximum(basis.eigenvalues, FLOOR * basis.eigenvalues[0])
    shift = (new.mean - stored.mean) @ basis.eigenvectors
    covariance = second_moment(stored, 1.0)
    change = second_moment(new, 1.0) - covariance
    noise = (1.0 / stored.n + 1.0 / new.n) * _noise_of_one_row(basis.eigenvalues)
    return Drift(
        n_stored=stored.n,
        n_new=new.n,
        mean_shift=float(np.sqrt((shift**2 / values).sum())),
        covariance_distance=float(np.linalg.norm(change) / np.linalg.norm(covariance)),
        frechet=distance,
        sampling_noise=noise,
        score=max(0.0, distance - noise) / float(basis.eigenvalues.sum()),
    )


def _noise_of_one_row(values: Floats) -> float:
    """`n` times the mean squared Frechet distance of a sample of `n` Gaussian rows from its own distribution.

    Second order in the error E of the covariance: `tr S / n` from the mean and `1/2 sum E_ij^2 / (l_i + l_j)`
    with `n E[E_ij^2] = l_i l_j (1 + [i = j])` (Wishart) from the covariance. Too high when `n` is less than
    the width.
    """
    sums = values[:, None] + values[None, :]
    pairs = np.divide(np.outer(values, values), sums, out=np.zeros_like(sums), where=sums > 0.0)
    return float(values.sum() + 0.5 * (pairs.sum() + np.trace(pairs)))
