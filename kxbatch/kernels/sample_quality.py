"""How good made rows are beside real ones: distances of distributions, coverage, and what was merely copied.

Letters: N rows, D values of a row, F features.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.drift import frechet
from kxbatch.kernels.knn import knn_cross
from kxbatch.kernels.manifold import coverage
from kxbatch.kernels.moments import fold

Rows = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cloud:
    """Rows as points.

    Attributes:
        values: float32 [N, D].
        features: float32 [N, F] of a classifier; None: the values are the features.
    """

    values: Rows
    features: Rows | None = None

    @property
    def points(self) -> Rows:
        """The features."""
        return self.values if self.features is None else self.features

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: NDArray[Any]) -> Cloud:
        """Some of them, by number or by mask [N]."""
        return Cloud(self.values[rows], None if self.features is None else self.features[rows])


@dataclass(frozen=True)
class Quality:
    """Of made rows beside real ones; None where there are too few rows.

    Attributes:
        rows: how many were measured.
        frechet: squared Frechet distance of the features (of those of Inception v3 it is called FID: Heusel et al. 2017).
        frechet_values: the same of the values.
        precision: share that lies among the real rows.
        recall: share of the real rows that lies among these.
        nearest: median distance of the values to the nearest real row.
        copies: share whose distance is at most a limit; None without one.
    """

    rows: int
    frechet: float | None
    frechet_values: float | None
    precision: float | None
    recall: float | None
    nearest: float | None
    copies: float | None


def quality(real: Cloud, made: Cloud, *, k: int = 3, limit: float | None = None, threads: int = 1) -> Quality:
    """Measures made rows.

    Args:
        real: what they should be like: rows that the model has learned from.
        made: the rows.
        k: of precision and recall.
        limit: distance to a real row up to which a row counts as its copy.
        threads: for the neighbour search.
    """
    covered = coverage(real.points, made.points, k=k, threads=threads)
    distances = _nearest_distances(real, made, threads)
    return Quality(
        rows=len(made),
        frechet=_frechet(real.points, made.points),
        frechet_values=_frechet(real.values, made.values),
        precision=covered.precision if covered else None,
        recall=covered.recall if covered else None,
        nearest=float(np.median(distances)) if len(distances) else None,
        copies=float((distances <= limit).mean()) if len(distances) and limit is not None else None,
    )


def low_distance(real: Cloud, made: Cloud, *, threads: int = 1) -> float | None:
    """The distance to the nearest real row that one made row in a hundred falls below; None where there is none."""
    distances = _nearest_distances(real, made, threads)
    return float(np.quantile(distances, 0.01)) if len(distances) else None


def _nearest_distances(real: Cloud, made: Cloud, threads: int) -> Floats:
    """Euclidean distance of the values of each made row to the nearest real row, float64 [N]; empty where there is none."""
    if not len(real) or not len(made):
        return np.empty(0)
    return knn_cross(made.values, real.values, 1, metric="euclidean", threads=threads).scores[:, 0]


def _frechet(real: Rows, made: Rows) -> float | None:
    """In float64: features of a trained network may lie far from 0."""
    if min(len(real), len(made)) < 2:
        return None
    if max(len(real), len(made)) < real.shape[1]:
        return _frechet_of_few(real, made)
    return frechet(fold(real, exact=True), fold(made, exact=True))


def _frechet_of_few(real: Rows, made: Rows) -> float:
    """The same without covariances, where these are larger than the rows are many.

    `S^1/2 S'^1/2` has the singular values of `X X'^T / sqrt(N N')`, X being the centred rows.
    """
    means = [points.mean(axis=0, dtype=np.float64) for points in (real, made)]
    x, y = (points.astype(np.float64) - mean for points, mean in zip((real, made), means, strict=True))
    x, y = x / np.sqrt(len(x)), y / np.sqrt(len(y))
    cross = float(np.linalg.svd(x @ y.T, compute_uv=False).sum())
    apart = float(np.square(means[0] - means[1]).sum() + np.square(x).sum() + np.square(y).sum())
    return max(0.0, apart - 2 * cross)
