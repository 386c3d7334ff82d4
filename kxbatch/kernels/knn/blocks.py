"""Blocks of rows as callers give them, checked and made ready."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kxbatch.errors import nearest
from kxbatch.kernels.knn.compiled import squared_norms
from kxbatch.kernels.knn.duplicates import Groups, group_rows
from kxbatch.kernels.knn.neighbors import Metric


@dataclass(frozen=True)
class Block:
    """Rows of one side of a search; whatever is per group is about distinct rows.

    Attributes:
        x: `[n, d]` float32, C-contiguous.
        groups: of rows that are equal bit for bit.
        weight: `[groups]`, inverse norms under the cosine, else ones.
        own_score: `[groups]`, the score of a row with itself.
    """

    x: NDArray[np.float32]
    groups: Groups
    weight: NDArray[np.float64]
    own_score: NDArray[np.float64]

    @property
    def distinct(self) -> int:
        """Number of distinct rows."""
        return len(self.groups.first)


def read_block(x: ArrayLike, metric: Metric, name: str) -> Block:
    """Checks rows and prepares them.

    Args:
        x: `[n, d]`, any real type; other types than float32 are converted to it.
        metric: what the rows will be scored by.
        name: what messages call the argument.

    Returns:
        The block.

    Raises:
        ValueError: not two-dimensional, not numbers, non-finite values, or zero vectors under the cosine; the message
            names the first such row.
    """
    check_metric(metric)
    rows = _as_float32(x, name)
    groups = group_rows(rows)
    squares = np.empty(len(groups.first))
    squared_norms(rows, groups.first, squares)
    if metric == "euclidean":
        return Block(rows, groups, np.ones_like(squares), np.full_like(squares, -0.0))  # minus the distance 0
    if metric == "inner":
        return Block(rows, groups, np.ones_like(squares), squares)
    if not squares.all():
        row = groups.first[np.flatnonzero(squares == 0)[0]]
        raise ValueError(f"{name}: row {row} is a zero vector, which has no cosine; set such rows aside first")
    weight = 1.0 / np.sqrt(squares)
    return Block(rows, groups, weight, squares * (weight * weight))


def check_metric(metric: str) -> None:
    """Raises ValueError for an unknown metric."""
    allowed = get_args(Metric)
    if metric not in allowed:
        raise ValueError(f"metric {metric!r}: use one of {', '.join(allowed)}{nearest(metric, allowed)}")


def _as_float32(x: ArrayLike, name: str) -> NDArray[np.float32]:
    given: NDArray[Any] = np.asarray(x)
    if given.ndim != 2 or given.dtype.kind not in "fiu" or given.shape[1] == 0:
        raise ValueError(f"{name}: need numbers of shape [n, d] with d > 0, not {given.dtype} {list(given.shape)}")
    with np.errstate(over="ignore"):  # what leaves the range becomes infinite and is named below
        rows = np.ascontiguousarray(given, np.float32)
    for start in range(0, len(rows), 4096):
        finite = np.isfinite(rows[start : start + 4096]).all(axis=1)
        if not finite.all():
            raise ValueError(f"{name}: row {start + int(np.argmin(finite))} has values that are not finite in float32")
    return rows
