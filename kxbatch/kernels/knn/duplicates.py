"""Rows that are equal bit for bit are searched once; their lists are written out afterwards.

Without this, m copies of one row would be m candidates of each other that no first pass can tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit


@dataclass(frozen=True)
class Groups:
    """Groups of equal rows, numbered by their first row, so that group numbers break ties as row indices do.

    Attributes:
        first: `[groups]`, the smallest row of each, rising.
        of_row: `[n]`, the group of each row.
        members: `[n]`, the rows group by group, rising inside a group.
        starts: `[groups + 1]`, where each group begins in `members`.
    """

    first: NDArray[np.int64]
    of_row: NDArray[np.int64]
    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    @property
    def trivial(self) -> bool:
        """Whether no row equals another."""
        return len(self.first) == len(self.of_row)


def group_rows(x: NDArray[np.float32]) -> Groups:
    """Finds the rows that are equal bit for bit.

    Rows are told apart by a multilinear hash (Carter and Wegman 1979) and compared in full where hashes agree.

    Args:
        x: `[n, d]`, C-contiguous.

    Returns:
        The groups; one a row if all differ.
    """
    bits = x.view(np.uint32)
    odd = np.bitwise_or(np.random.default_rng(0).integers(2**64, size=x.shape[1], dtype=np.uint64), np.uint64(1))
    hashes = np.empty(len(x), np.uint64)
    _hash(bits, odd, hashes)
    order = np.argsort(hashes, kind="stable")
    leader = np.arange(len(x))
    if len(x):
        _lead(bits, hashes, order, leader)
    first = np.flatnonzero(leader == np.arange(len(x)))
    of_row = np.searchsorted(first, leader)
    starts = np.concatenate([[0], np.cumsum(np.bincount(of_row, minlength=len(first)))]).astype(np.int64)
    return Groups(first, of_row, np.argsort(of_row, kind="stable"), starts)


@jit
def _hash(bits: NDArray[np.uint32], odd: NDArray[np.uint64], out: NDArray[np.uint64]) -> None:
    for i in range(bits.shape[0]):
        total = np.uint64(0)
        for q in range(bits.shape[1]):
            total += np.uint64(bits[i, q]) * odd[q]
        out[i] = total


@jit
def _lead(
    bits: NDArray[np.uint32], hashes: NDArray[np.uint64], order: NDArray[np.int64], leader: NDArray[np.int64]
) -> None:
    """Sets the leader of each row that equals the first row of its hash; a collision merely stays alone."""
    first = order[0]
    for a in range(1, order.shape[0]):
        i = order[a]
        if hashes[i] != hashes[first]:
            first = i
            continue
        different = False
        for q in range(bits.shape[1]):
            different |= bits[i, q] != bits[first, q]
        if not different:
            leader[i] = first
