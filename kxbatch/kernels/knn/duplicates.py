"""Rows that are equal bit for bit are searched once; their lists are written out afterwards.

Without this, m copies of one row would be m candidates of each other that no first pass can tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.jit import jit
from kxbatch.kernels.knn.scoring import best_first, offer


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
    odd = np.random.default_rng(0).integers(2**63, size=x.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
    hashes = np.empty(len(x), np.uint64)
    _hash(bits, odd, hashes)
    order = np.argsort(hashes, kind="stable")
    leader = np.arange(len(x))
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
    run = 0
    for a in range(1, order.shape[0]):
        if hashes[order[a]] != hashes[order[run]]:
            run = a
        elif np.all(bits[order[a]] == bits[order[run]]):
            leader[order[a]] = order[run]


@jit
def expand(
    lo: int,
    hi: int,
    of_row: NDArray[np.int64],
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    group_scores: NDArray[np.float64],
    group_who: NDArray[np.int64],
    own_score: NDArray[np.float64],
    scores: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """Writes out lists of groups as lists of rows, for the rows lo to hi.

    The k best groups suffice: the smallest rows of them are k rows that no row of another group beats.

    Args:
        lo: first row.
        hi: end of the rows.
        of_row: `[n]`, the group of each row.
        members: of the groups that stand in the lists.
        starts: of the groups that stand in the lists.
        group_scores: `[groups, k]`, best first.
        group_who: `[groups, k]`, -1 behind the last.
        own_score: `[groups]`, the score of a row with its own copies; empty where a row's own group is no candidate
            (two different blocks).
        scores: `[n, k]`, receives the result.
        who: `[n, k]`, receives the result.
    """
    for i in range(lo, hi):
        g, size = of_row[i], 0
        if own_score.shape[0]:
            for m in range(starts[g], min(starts[g + 1], starts[g] + scores.shape[1] + 1)):
                if members[m] != i:
                    size = offer(scores[i], who[i], size, own_score[g], members[m])
        for a in range(group_who.shape[1]):
            h, score = group_who[g, a], group_scores[g, a]
            if h < 0 or (size == scores.shape[1] and score < scores[i, 0]):
                break
            for m in range(starts[h], min(starts[h + 1], starts[h] + scores.shape[1])):
                size = offer(scores[i], who[i], size, score, members[m])
        best_first(scores[i], who[i], size)
