"""First and second moments of a corpus as a fold: rows are read once, states are merged.

Everything the whitening, the Gaussian density and the drift measure need is in one small state, so that
hyperparameters are chosen after the only pass over the data.

Normalisation: covariances are those of the population, `scatter / n` (not `n - 1`).

Rounding. float32 and float16 rows are multiplied in float32, 8192 rows at a time, after a shift to the middle
of the block (exact where it cancels digits: Sterbenz), and the blocks are added up in float64. The error of
an entry of the covariance is then at most about 3e-7 of `sqrt(S_ii S_jj)`, and shrinks with the number of
blocks; of an eigenvalue about 1e-8 to 2e-7 of the largest. float64 rows, or `exact=True`, are multiplied in
float64 (errors near 1e-15) at half the speed. `Moments.roundoff` remembers which.

The result depends on how rows are split into folds only through that rounding; the same split gives the same
bytes on the same BLAS with the same number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.floating[Any]]

BLOCK = 8192  # rows of one matrix product: long enough for BLAS, short enough for float32 sums
PANEL = 512  # rows of the element-wise passes: 0.75 MB at d = 384, stays in the L2 cache


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of `n` rows of width `d`.

    Attributes:
        n: number of rows.
        mean: float64 [d].
        scatter: float64 [d, d], the sum of `(x - mean)^T (x - mean)`; divided by `n` it is the covariance.
        unit_sum: float64 [d], the sum of `x / |x|` over the rows with `|x| > 0`.
        zeros: number of rows with `|x| = 0` (in the precision of the fold); `unit_sum` leaves them out.
        roundoff: unit roundoff of the products behind `scatter`: 2^-24 (float32) or 2^-53 (float64).
    """

    n: int
    mean: Floats
    scatter: Floats
    unit_sum: Floats
    zeros: int
    roundoff: float

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as named arrays, for safetensors or `.npz`; the numbers are arrays of no dimension."""
        return {
            "n": np.array(self.n, dtype=np.int64),
            "mean": self.mean,
            "scatter": self.scatter,
            "unit_sum": self.unit_sum,
            "zeros": np.array(self.zeros, dtype=np.int64),
            "roundoff": np.array(self.roundoff, dtype=np.float64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Moments:
        """The inverse of `to_arrays`, bit for bit."""
        return cls(
            n=int(arrays["n"]),
            mean=np.asarray(arrays["mean"], dtype=np.float64),
            scatter=np.asarray(arrays["scatter"], dtype=np.float64),
            unit_sum=np.asarray(arrays["unit_sum"], dtype=np.float64),
            zeros=int(arrays["zeros"]),
            roundoff=float(arrays["roundoff"]),
        )


def fold(x: Rows, *, exact: bool = False) -> Moments:
    """Moments of one piece of the corpus.

    Args:
        x: float16, float32 or float64 [n, d]; n may be 0.
        exact: multiply in float64 whatever the type of `x` (see the module for what float32 costs in
            accuracy).

    Returns:
        The moments of these rows.

    Raises:
        ValueError: `x` is not a floating point matrix, or a row is not finite or overflows the precision.
    """
    if x.ndim != 2 or x.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"moments want a float16, float32 or float64 matrix [n, d], got {x.dtype} {list(x.shape)}")
    dtype = np.dtype(np.float64 if exact or x.dtype == np.float64 else np.float32)
    roundoff = 2.0**-53 if dtype == np.float64 else 2.0**-24
    blocks = range(0, len(x), BLOCK)
    sizes = np.array([min(BLOCK, len(x) - start) for start in blocks], dtype=np.float64)
    centred = np.empty((min(BLOCK, len(x)), x.shape[1]), dtype=dtype)
    shifts, rests = (np.zeros((len(blocks), x.shape[1])) for _ in range(2))
    scatter, unit_sum, zeros = np.zeros((x.shape[1], x.shape[1])), np.zeros(x.shape[1]), 0
    for b, start in enumerate(blocks):
        block = x[start : start + BLOCK]
        shifts[b], total, unit, empty = _centre(block, centred[: len(block)], start)
        scatter += centred[: len(block)].T @ centred[: len(block)]
        rests[b] = total / len(block)
        unit_sum += unit
        zeros += empty
    if not np.isfinite(scatter.diagonal()).all():
        raise ValueError(f"squares of the rows overflow {dtype}: fold them with exact=True")
    # Each block is about its own shift: move it to its mean, and then to the mean of all blocks.
    means = shifts + rests
    mean = means[0] + sizes @ (means - means[0]) / len(x) if len(x) else np.zeros(x.shape[1])
    apart, rests = (z * np.sqrt(sizes)[:, None] for z in (means - mean, rests))
    scatter += apart.T @ apart - rests.T @ rests
    return Moments(len(x), mean, scatter, unit_sum, zeros, roundoff)


def _centre(x: Rows, centred: Rows, first_row: int) -> tuple[Rows, Floats, Floats, int]:
    """Shifts one block to its middle and sums what the moments need besides products.

    Args:
        x: [n, d], n up to `BLOCK`.
        centred: [n, d], receives `x - shift` in the precision of the products.
        first_row: number of `x[0]`, for errors.

    Returns:
        The shift [d], the sum of the centred rows [d], the sum of the unit vectors [d] and the number of zero rows.
    """
    n, d = x.shape
    dtype = centred.dtype
    # Any point near the middle of the block will do: what is left of the mean is subtracted exactly afterwards.
    shift = x[:: max(1, n // 64)].mean(axis=0, dtype=np.float64).astype(dtype)
    total, unit_sum, zeros = np.zeros(d), np.zeros(d), 0
    for start in range(0, n, PANEL):
        panel = x[start : start + PANEL].astype(dtype, copy=False)
        inverse = _inverse_norms(panel, first_row + start)
        zeros += len(inverse) - int(np.count_nonzero(inverse))
        unit_sum += inverse @ panel
        part = np.subtract(panel, shift, out=centred[start : start + PANEL])
        total += np.ones(len(part), dtype=dtype) @ part
    return shift, total, unit_sum, zeros


def _inverse_norms(panel: Rows, first_row: int) -> Rows:
    """`1 / |x|` of every row, 0 where `|x| = 0`."""
    squares = np.einsum("ij,ij->i", panel, panel)
    if not np.isfinite(squares).all():
        row = first_row + int(np.argmin(np.isfinite(squares)))
        raise ValueError(f"row {row} holds NaN or infinity, or its squared norm overflows {panel.dtype}: set it aside")
    norms = np.sqrt(squares)
    inverse: Rows = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
    return inverse


def merge(a: Moments, b: Moments) -> Moments:
    """Moments of the rows of `a` and `b` together.

    `M = M_a + M_b + d d^T n_a n_b / (n_a + n_b)` with `d = mean_b - mean_a` (Chan, Golub & LeVeque 1979).
    Merging new rows into stored moments is the same call. The order matters to the last bits; see
    `merge_tree`.

    Raises:
        ValueError: the widths differ.
    """
    if len(a.mean) != len(b.mean):
        raise ValueError(f"cannot merge moments of width {len(a.mean)} and {len(b.mean)}")
    if a.n == 0 or b.n == 0:
        return a if b.n == 0 else b
    n = a.n + b.n
    delta = b.mean - a.mean
    return Moments(
        n=n,
        mean=a.mean + delta * (b.n / n),
        scatter=a.scatter + b.scatter + np.outer(delta, delta) * (a.n * b.n / n),
        unit_sum=a.unit_sum + b.unit_sum,
        zeros=a.zeros + b.zeros,
        roundoff=max(a.roundoff, b.roundoff),
    )


def merge_tree(parts: Sequence[Moments]) -> Moments:
    """Merges neighbours two by two until one is left.

    The order is fixed, and so is the result to the last bit, whoever folded the parts.

    Raises:
        ValueError: there is nothing to merge.
    """
    if not parts:
        raise ValueError("no moments to merge")
    level = list(parts)
    while len(level) > 1:
        pairs = [merge(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    return level[0]


def second_moment(moments: Moments, beta: float) -> Floats:
    """`Sigma_beta = E[(x - beta mu)^T (x - beta mu)] = E[x^T x] - (2 beta - beta^2) mu^T mu` (Su 2022).

    Computed as `scatter / n + (1 - beta)^2 mu^T mu`, which is the same and subtracts nothing.

    Returns:
        float64 [d, d], symmetric; at beta = 1 the covariance (1 / n).

    Raises:
        ValueError: the moments are of no rows.
    """
    if moments.n == 0:
        raise ValueError("moments of no rows have no second moment")
    return moments.scatter / moments.n + (1.0 - beta) ** 2 * np.outer(moments.mean, moments.mean)


def mean_cosine(moments: Moments) -> float | None:
    """Mean cosine over all pairs of different rows.

    Exactly, without the pairs: `(|s|^2 - m) / (m (m - 1))` with `s` the sum of the unit vectors. Rows with
    `|x| = 0` have no direction and are left out: `m = n - zeros`.

    Returns:
        The mean, near 0 for isotropic data; None with fewer than two rows.
    """
    m = moments.n - moments.zeros
    if m < 2:
        return None
    return float((moments.unit_sum @ moments.unit_sum - m) / (m * (m - 1)))
