"""Whitening with two hyperparameters: `y = (x - beta mu) U[:, :k] diag(lambda[:k] ** (-gamma / 2))`.

`mu` is the mean, `Sigma_beta = U diag(lambda) U^T` the second moment about `beta mu`, lambda descending (Su
2022, "BERT-whitening with hyperparameters"; Su, Cao, Liu & Ou 2021, arXiv 2103.15316). beta = gamma = 1 is
classic whitening, beta = 1, gamma = 0 is PCA, beta = gamma = 0 a rotation that keeps every cosine and orders
the dimensions by energy. Cosine similarity is used afterwards (`normalize`).

Rank. A direction whose eigenvalue is not above `floor * lambda[0]` carries rounding noise only (fewer rows
than dimensions, repeated columns, a layer norm). Scaling it up by `lambda ** (-gamma / 2)` would blow noise
up, and would blow up any later row that has a component there, so such directions are never part of a
projection: `dim` ends at the numerical rank for every gamma.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from kxbatch.kernels.moments import BLOCK, Floats, Moments, Rows, second_moment

FLOOR = 1e-9  # relative to the largest eigenvalue


@dataclass(frozen=True, eq=False)
class Decomposition:
    """Eigendecomposition of `Sigma_beta`.

    Attributes:
        eigenvalues: float64 [d], descending, not negative.
        eigenvectors: float64 [d, d], one a column; the entry of largest magnitude is positive.
        rank: number of eigenvalues above the floor.
        floor: the floor that was applied, relative to `eigenvalues[0]`.
    """

    eigenvalues: Floats
    eigenvectors: Floats
    rank: int
    floor: float


@dataclass(frozen=True, eq=False)
class Transform:
    """A fitted whitening: `y = (x - beta mean) @ projection`.

    Attributes:
        n: rows it was fitted on.
        mean: float64 [d].
        projection: float64 [d, k], `U[:, :k] lambda[:k] ** (-gamma / 2)`, scaling included.
        eigenvalues: float64 [d], all of `Sigma_beta`, descending.
        beta: how much of the mean is removed, 0 to 1.
        gamma: how far the variances are evened out, 0 to 1.
        dim: output width k.
        effective_rank: exp of the entropy of the normalised eigenvalues (Roy & Vetterli 2007): 1 to
            d.
        rank: numerical rank, the number of eigenvalues above the floor.
        floor: relative to the largest eigenvalue.
    """

    n: int
    mean: Floats
    projection: Floats
    eigenvalues: Floats
    beta: float
    gamma: float
    dim: int
    effective_rank: float
    rank: int
    floor: float

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The fields as named arrays, for safetensors or `.npz`; the numbers are arrays of no dimension."""
        return {name: np.array(value) for name, value in vars(self).items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Transform:
        """The inverse of `to_arrays`, bit for bit."""
        return cls(
            n=int(arrays["n"]),
            mean=np.asarray(arrays["mean"], dtype=np.float64),
            projection=np.asarray(arrays["projection"], dtype=np.float64),
            eigenvalues=np.asarray(arrays["eigenvalues"], dtype=np.float64),
            beta=float(arrays["beta"]),
            gamma=float(arrays["gamma"]),
            dim=int(arrays["dim"]),
            effective_rank=float(arrays["effective_rank"]),
            rank=int(arrays["rank"]),
            floor=float(arrays["floor"]),
        )


@dataclass(frozen=True)
class CosineError:
    """Absolute difference of pairwise cosines between two versions of the same rows: mean and largest."""

    mean: float
    max: float


def decompose(moments: Moments, beta: float, floor: float = FLOOR) -> Decomposition:
    """Eigenvalues and eigenvectors of `Sigma_beta`, and how many of them mean anything.

    The floor is raised to what the rounding of the fold leaves in directions without variance: twice
    `moments.roundoff` times the largest eigenvalue of the covariance (the noise measured there is a tenth of
    that).

    Args:
        moments: of the rows to whiten.
        beta: 0 to 1.
        floor: relative to the largest eigenvalue.

    Raises:
        ValueError: beta is out of range, or the data have no spread at all.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must lie in 0 to 1, got {beta}")
    values, vectors = np.linalg.eigh(second_moment(moments, beta))
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    top = float(values[0])
    if top == 0.0:
        raise ValueError(f"nothing to whiten: {moments.n} row(s) without any spread at beta = {beta}")
    noise = 2.0 * moments.roundoff * float(np.linalg.eigvalsh(moments.scatter / moments.n)[-1]) / top
    floor = max(floor, noise)
    rank = min(int(np.count_nonzero(values > floor * top)), moments.n - 1 if beta == 1.0 else moments.n)
    return Decomposition(np.ascontiguousarray(values), _signed(vectors), rank, floor)


def _signed(vectors: Floats) -> Floats:
    """Makes the largest entry (by magnitude) of every column positive: eigenvectors have no sign."""
    largest = np.argmax(np.abs(vectors), axis=0)
    signs = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0.0, -1.0, 1.0)
    return np.ascontiguousarray(vectors * signs)


def fit(
    moments: Moments, beta: float = 1.0, gamma: float = 1.0, dim: int | None = None, floor: float = FLOOR
) -> Transform:
    """The transform for one choice of hyperparameters, from moments alone.

    The first columns of the projection do not depend on `dim`, so truncation is nested.

    Args:
        moments: of the rows it shall whiten.
        beta: how much of the mean to remove, 0 to 1.
        gamma: how far to even out the variances, 0 to 1.
        dim: output width; None for the numerical rank.
        floor: eigenvalues not above `floor * lambda[0]` count as zero.

    Raises:
        ValueError: a hyperparameter is out of range, `dim` exceeds the numerical rank, or the data have no
            spread.
    """
    if not 0.0 <= gamma <= 1.0:
        raise ValueError(f"gamma must lie in 0 to 1, got {gamma}")
    basis = decompose(moments, beta, floor)
    dim = basis.rank if dim is None else dim
    if not 1 <= dim <= basis.rank:
        raise ValueError(
            f"dim = {dim} is not possible: {moments.n} rows of width {len(moments.mean)} have rank "
            f"{basis.rank} at beta = {beta} (floor {basis.floor:.1e}); use 1 to {basis.rank}, or no dim"
        )
    scale = basis.eigenvalues[:dim] ** (-gamma / 2.0)
    return Transform(
        n=moments.n,
        mean=moments.mean,
        projection=basis.eigenvectors[:, :dim] * scale,
        eigenvalues=basis.eigenvalues,
        beta=float(beta),
        gamma=float(gamma),
        dim=dim,
        effective_rank=_effective_rank(basis.eigenvalues),
        rank=basis.rank,
        floor=basis.floor,
    )


def _effective_rank(eigenvalues: Floats) -> float:
    share = eigenvalues[eigenvalues > 0.0] / eigenvalues.sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def apply(transform: Transform, x: Rows, dtype: DTypeLike = np.float32) -> Rows:
    """Whitens rows, 8192 at a time.

    float32 and float16 rows are shifted by the float32 part of `beta mean`, which loses nothing where digits
    cancel; the rest of it is taken off after the product. float64 rows are shifted in float64. The product
    runs in float32 (error about 1e-7 of `|x - beta mean| lambda_k ** (-gamma / 2)`), or in float64 for
    float64 output.

    Args:
        transform: as fitted.
        x: float16, float32 or float64 [n, d].
        dtype: of the output: float16, float32 or float64.

    Returns:
        [n, dim], not normalised.

    Raises:
        ValueError: the width or a type does not fit, or a value overflows float16.
    """
    out_type = np.dtype(dtype)
    if out_type not in (np.float16, np.float32, np.float64):
        raise ValueError(f"whitened rows can be float16, float32 or float64, not {out_type}")
    if x.ndim != 2 or x.shape[1] != len(transform.mean):
        raise ValueError(f"the transform wants rows of width {len(transform.mean)}, got an array {list(x.shape)}")
    compute = np.dtype(np.float64 if out_type == np.float64 else np.float32)
    offset = transform.beta * transform.mean
    wide = np.result_type(x.dtype, compute) == np.float64
    shift = offset if wide else offset.astype(np.float32)
    rest = ((offset - shift) @ transform.projection).astype(compute)
    projection = transform.projection.astype(compute)
    out = np.empty((len(x), transform.dim), dtype=out_type)
    for start in range(0, len(x), BLOCK):
        centred = (x[start : start + BLOCK] - shift).astype(compute, copy=False)
        out[start : start + BLOCK] = _narrow(centred @ projection - rest, out_type)
    return out


def _narrow(y: Rows, dtype: np.dtype[Any]) -> Rows:
    if dtype == np.float16 and y.size and float(np.abs(y).max()) > float(np.finfo(np.float16).max):
        raise ValueError("whitened values exceed float16 (65504): use float32, or a larger gamma")
    return y.astype(dtype, copy=False)


def normalize(x: Rows, clip: float = 1e-8) -> Rows:
    """Rows of Euclidean length 1: `x / max(|x|, clip)`, in the type of `x`. Rows of zeros stay zeros.

    Args:
        x: floating point [n, d]; float16 lengths are computed in float32.
        clip: smallest length divided by.
    """
    wide = x.astype(np.float32) if x.dtype == np.float16 else x
    norms = np.sqrt(np.einsum("ij,ij->i", wide, wide))
    scaled: Rows = wide / np.maximum(norms, clip)[:, None]
    return scaled.astype(x.dtype, copy=False)


def cosine_error(x: Rows, y: Rows, sample: int = 1024) -> CosineError:
    """What a narrower type (or a truncation) does to the cosines between rows.

    Args:
        x: [n, d], the reference.
        y: [n, any width], the same rows after the change.
        sample: compare all pairs among at most this many rows, evenly spaced.

    Raises:
        ValueError: the numbers of rows differ, or there are fewer than two.
    """
    if len(x) != len(y) or len(x) < 2:
        raise ValueError(f"cosine error compares the same two or more rows, got {len(x)} and {len(y)}")
    chosen = np.linspace(0, len(x) - 1, min(sample, len(x))).round().astype(np.int64)
    a, b = (normalize(z[chosen].astype(np.float64)) for z in (x, y))
    upper = np.triu_indices(len(chosen), 1)
    difference = np.abs(a @ a.T - b @ b.T)[upper]
    return CosineError(mean=float(difference.mean()), max=float(difference.max()))


def spectrum(transform: Transform) -> dict[str, Any]:
    """Facts about a fit, ready for JSON.

    Returns:
        n, dim, beta, gamma, rank (numerical), effective_rank, floor, eigenvalues [d], explained_share [d]:
        the cumulative share of the eigenvalues, `sum(lambda[:i + 1]) / sum(lambda)`.
    """
    share = np.cumsum(transform.eigenvalues) / transform.eigenvalues.sum()
    return {
        "n": transform.n,
        "dim": transform.dim,
        "beta": transform.beta,
        "gamma": transform.gamma,
        "rank": transform.rank,
        "effective_rank": transform.effective_rank,
        "floor": transform.floor,
        "eigenvalues": transform.eigenvalues.tolist(),
        "explained_share": share.tolist(),
    }
