"""The last pass: exact scores of the surviving candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.candidates import Candidates, Rows, Scratch, raise_to_score, score_held, tighten
from kxbatch.kernels.knn.jit import jit
from kxbatch.kernels.knn.scoring import best_first, offer


@jit
def rerank(
    lo: int,
    hi: int,
    rows: Rows,
    candidates: Candidates,
    scratch: Scratch,
    scores: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """Writes the lists of the packed rows lo to hi.

    Args:
        lo: first packed row.
        hi: end of the packed rows.
        rows: the vectors.
        candidates: which hold the k best of each row, and some more.
        scratch: of this thread.
        scores: `[n, k]`, indexed by identity; receives the scores, best first.
        who: `[n, k]`, indexed by identity; receives the identities.
    """
    for i in range(lo, hi):
        tighten(candidates, i, scratch)
        own, kept = rows.identity[i], 0
        for a in range(score_held(rows, candidates, i, scratch)):
            kept = offer(scores[own], who[own], kept, scratch.scores[a], rows.identity[scratch.others[a]])
        best_first(scores[own], who[own], kept)


@jit
def apply_floors(lo: int, hi: int, rows: Rows, candidates: Candidates, floors: NDArray[np.float64]) -> None:
    """Starts the packed rows lo to hi from known k-th best scores, `[n]`, indexed by identity."""
    for i in range(lo, hi):
        raise_to_score(rows, candidates, i, floors[rows.identity[i]])
