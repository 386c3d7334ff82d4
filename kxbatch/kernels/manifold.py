"""How well two samples cover each other: precision and recall by nearest neighbours.

Kynkaanniemi, Karras, Laine, Lehtinen and Aila (2019), "Improved Precision and Recall Metric for Assessing Generative Models",
equations 1 to 3. A sample stands for the union of balls around its points, each as wide as its k-th neighbour is far.

Letters: N points of one sample, M of the other, F numbers of a point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn import knn_graph

Points = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]

_PAIRS = 2**22  # distances at once


@dataclass(frozen=True)
class Coverage:
    """Of points that were made, and real ones.

    Attributes:
        precision: share of the made points that lie in a ball of the real ones: how many look real.
        recall: share of the real points that lie in a ball of the made ones: how much of what is real is made.
    """

    precision: float
    recall: float


def coverage(real: Points, made: Points, *, k: int = 3, threads: int = 1) -> Coverage | None:
    """Precision and recall; None where one of the two has no more than k points, and so no k-th neighbour.

    Both fall with the number of points: compare only numbers from samples of one size, against the same real points.

    Args:
        real: floating [N, F].
        made: floating [M, F].
        k: which neighbour tells the radius.
        threads: for the neighbour search.
    """
    if min(len(real), len(made)) <= k:
        return None
    radii = [knn_graph(points, k, metric="euclidean", threads=threads).scores[:, -1] for points in (real, made)]
    return Coverage(
        precision=float(inside(made, real, radii[0]).mean()), recall=float(inside(real, made, radii[1]).mean())
    )


def inside(points: Points, centres: Points, radii: Sequence[float] | Floats) -> NDArray[np.bool_]:
    """Whether each point lies in any of the balls, their edges included.

    Args:
        points: floating [N, F].
        centres: floating [M, F].
        radii: [M].

    Returns:
        bool [N].
    """
    found = np.zeros(len(points), bool)
    x, c = points.astype(np.float64), centres.astype(np.float64)
    squares = np.square(c).sum(axis=1)
    # A ball's edge goes through a point: without room for rounding it would be a matter of chance.
    reach = np.square(np.asarray(radii, np.float64)) * (1 + 1e-6)
    step = max(1, _PAIRS // max(1, len(c)))
    for at in range(0, len(x), step):
        some = x[at : at + step]
        apart = np.square(some).sum(axis=1)[:, None] + squares - 2 * some @ c.T
        found[at : at + step] = (apart <= reach + 1e-12 * squares.max(initial=0.0)).any(axis=1)
    return found
