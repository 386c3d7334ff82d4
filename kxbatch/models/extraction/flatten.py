"""From spans that may hold or cross each other to spans that do not: what a flat annotation, or a tag a token, can say.

S counts spans.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit
from kxbatch.models.extraction.token_spans import TokenSpans


def flatten(spans: TokenSpans) -> TokenSpans:
    """Keeps spans that share no token: greedily the highest score first; of equal ones the longer, the earlier, the lower type.

    Args:
        spans: any, in tokens or in other units.

    Returns:
        A subset, sorted as ever.
    """
    widths = spans.ends - spans.starts
    order = np.lexsort((spans.types, spans.starts, -widths, -spans.scores, spans.rows))
    kept = np.zeros(len(spans), np.bool_)
    taken = np.zeros(spans.ends.max(initial=0), np.bool_)
    _take_greedily(order, spans.rows, spans.starts, spans.ends, taken, kept)
    return spans.take(kept)


@jit
def _take_greedily(
    order: NDArray[np.int64], rows: Any, starts: Any, ends: Any, taken: NDArray[np.bool_], kept: NDArray[np.bool_]
) -> None:
    """`taken` are the tokens of the row at hand that are spoken for."""
    first = 0
    for at in range(len(order)):
        span = order[at]
        if rows[span] != rows[order[first]]:
            for before in order[first:at]:
                taken[starts[before] : ends[before]] = False
            first = at
        if not taken[starts[span] : ends[span]].any():
            taken[starts[span] : ends[span]] = True
            kept[span] = True
