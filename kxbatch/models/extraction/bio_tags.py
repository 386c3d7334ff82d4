"""Spans as one tag a token: B-x begins a span of type x, I-x goes on with it, O is outside of any.

Ramshaw and Marcus (1995), with a B at every beginning. Tags are numbered O = 0, B-x = 1 + 2 x, I-x = 2 + 2 x.

Shapes: B texts, L tokens, K = 2 T + 1 tags of T types.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.models.extraction.flatten import flatten
from kxbatch.models.extraction.token_spans import TokenSpans


def legal_transitions(types: int) -> NDArray[np.bool_]:
    """Bool [K, K], from row to column: I-x follows B-x and I-x only."""
    legal_KK = np.ones((2 * types + 1, 2 * types + 1), np.bool_)
    legal_KK[:, 2::2] = False
    inside_T = np.arange(2, 2 * types + 1, 2)
    legal_KK[inside_T, inside_T] = True
    legal_KK[inside_T - 1, inside_T] = True
    return legal_KK


def tags_of(spans: TokenSpans, texts: int, length: int) -> NDArray[np.int64]:
    """BIO tags [B, L] of spans.

    A flat scheme cannot say all sets of spans: of those that share a token the longest is kept, of equally long ones the
    first, then the one of the lower type, whatever the scores.
    """
    flat = flatten(TokenSpans.of(spans.rows, spans.starts, spans.ends, spans.types))
    tags_BL = np.zeros((texts, length), np.int64)
    widths = flat.ends - flat.starts
    token = np.arange(widths.sum()) - np.repeat(np.cumsum(widths) - widths - flat.starts, widths)
    tags_BL[np.repeat(flat.rows, widths), token] = np.repeat(2 + 2 * flat.types, widths)
    tags_BL[flat.rows, flat.starts] -= 1
    return tags_BL


def spans_of_tags(tags_BL: NDArray[np.int64]) -> TokenSpans:
    """Spans of legal BIO tags; scores are 0."""
    texts, length = tags_BL.shape
    ended = np.zeros((texts, length + 1), np.int64)  # an O ends each row
    ended[:, :-1] = tags_BL
    flat = ended.ravel()
    begins = np.flatnonzero(flat % 2)
    borders = np.flatnonzero((flat == 0) | (flat % 2 == 1))
    ends = borders[np.searchsorted(borders, begins, side="right")]
    rows = begins // (length + 1)
    return TokenSpans.of(rows, begins - rows * (length + 1), ends - rows * (length + 1), flat[begins] // 2)
