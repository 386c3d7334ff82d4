"""Choosing beta, gamma and the width on labelled pairs, from one fold and one eigendecomposition per beta."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kxbatch.kernels.moments import Floats, Moments, Rows
from kxbatch.kernels.whitening import Decomposition, decompose

_PAIRS = 4096  # pairs rotated at a time: bounds the memory of the sweep


@dataclass(frozen=True)
class SweepPoint:
    """One choice of hyperparameters and its Spearman correlation with the gold scores (None: undefined)."""

    beta: float
    gamma: float
    dim: int
    spearman: float | None


def average_ranks(values: ArrayLike) -> Floats:
    """Ranks from 1; equal values share the mean of their ranks.

    Args:
        values: [n], without NaN.
    """
    _, group, sizes = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    ranks: Floats = (last - (sizes - 1) / 2.0)[group]
    return ranks


def spearman(a: ArrayLike, b: ArrayLike) -> float | None:
    """Spearman's rank correlation, ties by average rank: Pearson's correlation of the ranks.

    Args:
        a: [n] real numbers.
        b: [n] real numbers.

    Returns:
        -1 to 1; None where undefined (fewer than two values, or all equal on one side).

    Raises:
        ValueError: the lengths differ or a value is NaN.
    """
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"Spearman wants two vectors of one length, got {list(x.shape)} and {list(y.shape)}")
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("Spearman wants numbers, got NaN")
    return _pearson(average_ranks(x), average_ranks(y)) if len(x) else None


def _pearson(x: Floats, y: Floats) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    length = np.sqrt((x @ x) * (y @ y))
    return float(np.clip((x @ y) / length, -1.0, 1.0)) if length > 0.0 else None


def sweep(
    moments: Moments,
    left: Rows,
    right: Rows,
    gold: ArrayLike,
    betas: Sequence[float],
    gammas: Sequence[float],
    dims: Sequence[int],
) -> list[SweepPoint]:
    """Spearman correlation between cosine and gold score at every point of a grid.

    For one beta the pairs are rotated once; gamma only weighs the rotated columns and a width only ends the
    sums.

    Args:
        moments: of the rows to fit on; the pairs need not be among them.
        left: [m, d], the vectors of the first texts.
        right: [m, d], the vectors of the second texts.
        gold: [m], similarity given by people, any scale.
        betas: values of beta, 0 to 1.
        gammas: values of gamma, 0 to 1.
        dims: output widths.

    Returns:
        One point for each (beta, gamma, dim) in the order given. A width above the numerical rank at a beta,
        which `whitening.fit` would refuse, is left out.

    Raises:
        ValueError: shapes do not fit, or a width or a hyperparameter is out of range.
    """
    scores = np.asarray(gold, dtype=np.float64)
    _check(moments, left, right, scores, gammas, dims)
    points = []
    for beta in betas:
        basis = decompose(moments, beta)
        widths = [dim for dim in dims if dim <= basis.rank]
        cosines = np.empty((len(gammas), len(widths), len(scores)))
        for start in range(0, len(scores), _PAIRS):
            pairs = slice(start, start + _PAIRS)
            x, y = ((z[pairs] - beta * moments.mean) @ basis.eigenvectors for z in (left, right))
            for g, gamma in enumerate(gammas):
                cosines[g, :, pairs] = _cosines(x, y, _weights(basis, gamma), widths)
        points += [
            SweepPoint(beta, gamma, dim, spearman(cosines[g, w], scores))
            for g, gamma in enumerate(gammas)
            for w, dim in enumerate(widths)
        ]
    return points


def _weights(basis: Decomposition, gamma: float) -> Floats:
    """`lambda ** -gamma`, zero beyond the rank: the squared scaling of every direction."""
    weights = np.zeros_like(basis.eigenvalues)
    weights[: basis.rank] = basis.eigenvalues[: basis.rank] ** -gamma
    return weights


def _cosines(x: Floats, y: Floats, weights: Floats, widths: Sequence[int]) -> Floats:
    """Cosines [len(widths), m] of the pairs when only the first `width` of the weighted columns are kept."""

    def upto(z: NDArray[Any]) -> Floats:
        sums: Floats = np.cumsum(z * weights, axis=1)[:, [width - 1 for width in widths]].T
        return sums

    # The clip on the lengths is that of `whitening.normalize`.
    lengths = np.maximum(np.sqrt(upto(x * x)), 1e-8) * np.maximum(np.sqrt(upto(y * y)), 1e-8)
    cosines: Floats = upto(x * y) / lengths
    return cosines


def _check(
    moments: Moments, left: Rows, right: Rows, gold: Floats, gammas: Sequence[float], dims: Sequence[int]
) -> None:
    d = len(moments.mean)
    if left.shape != right.shape or left.shape != (len(gold), d) or gold.ndim != 1:
        raise ValueError(
            f"pairs want left and right [m, {d}] and gold [m], got {list(left.shape)}, {list(right.shape)}, "
            f"{list(gold.shape)}"
        )
    for problem in _out_of_range(gammas, dims, d):
        raise ValueError(problem)


def _out_of_range(gammas: Sequence[float], dims: Sequence[int], d: int) -> Iterator[str]:
    yield from (f"gamma must lie in 0 to 1, got {gamma}" for gamma in gammas if not 0.0 <= gamma <= 1.0)
    yield from (f"width {dim} is not possible: allowed is 1 to {d}" for dim in dims if not 1 <= dim <= d)
