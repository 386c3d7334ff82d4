"""Gold spans that no model can find, whatever it learns: they begin or end within a token, or are wider than a window.

Letters: R texts, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kxbatch.data.span_columns import FlatSpans
from kxbatch.models.extraction.alignment import align
from kxbatch.models.extraction.sequences import tokenize
from kxbatch.models.tokenization import FastTokenizer

_ROWS = 2048  # texts that are tokenised at a time


@dataclass(frozen=True)
class Reach:
    """How many spans there are, and why some are lost.

    Attributes:
        spans: S.
        unaligned: begin or end within a token.
        too_wide: of the others, those with more tokens than a window has.
    """

    spans: int
    unaligned: int
    too_wide: int


def reach(tokenizer: FastTokenizer, texts: Sequence[str], spans: FlatSpans, room: int) -> Reach:
    """Count the spans that are lost.

    Args:
        tokenizer: of the model.
        texts: R texts.
        spans: in them.
        room: tokens of a window, special ones not counted.
    """
    unaligned = too_wide = 0
    for first in range(0, len(texts), _ROWS):
        some = slice(*np.searchsorted(spans.rows, [first, first + _ROWS]))
        tokens = tokenize(tokenizer, texts[first : first + _ROWS])
        aligned = align(spans.rows[some] - first, spans.starts[some], spans.ends[some], tokens.offsets)
        unaligned += int(np.count_nonzero(~aligned.found))
        too_wide += int(np.count_nonzero(aligned.ends - aligned.starts > room))
    return Reach(len(spans.rows), unaligned, too_wide)
