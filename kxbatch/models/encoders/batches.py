"""Which texts are computed together: of like length, so that little is padding, and few enough to stay in cache."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def cut_batches(lengths: npt.NDArray[np.int64], token_budget: int) -> list[npt.NDArray[np.int64]]:
    """Cut texts into batches by length.

    Args:
        lengths: int64 [n], tokens of each text.
        token_budget: rows times the longest row of a batch is at most this, unless one text alone is longer.

    Returns:
        Row numbers of each batch, int64; together each of 0 .. n-1 once, longest texts first (equal ones in
        their order), which also lets threads end together.
    """
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        rows = max(1, token_budget // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + rows])
        start += rows
    return batches
