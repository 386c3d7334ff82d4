"""From scores of spans to spans: every span and type whose score is above a threshold, nested and crossing ones alike.

Of the efficient head no score of every type is computed. With `s_a(i, j) = q_i . k_j + start_i,a + end_j,a` no type of a span
scores above `q_i . k_j + max_a start_i,a + max_a end_j,a`, and few spans of a trained head come above the threshold by that
bound; only these are scored type by type. The sums are taken in the same order as in `dense_scores`, and rounding keeps order,
so that the bound loses nothing: the spans are those of the dense scores.

Shapes: B texts, L tokens, D width of the encoder's states, T types, d head size, P pairs of tokens, S spans.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, GlobalPointer, Parts, products, spans_of
from kxbatch.models.extraction.token_spans import TokenSpans

AT_ONCE = 1 << 22  # scores that are held at a time


@torch.no_grad()
def decode(
    head: GlobalPointer | EfficientGlobalPointer,
    h_BLD: Tensor,
    valid_BL: Tensor,
    threshold: float = 0.0,
    max_width: int | None = None,
) -> TokenSpans:
    """Spans of a batch by whichever head, in memory for the pairs of tokens of one type.

    Args:
        head: trained.
        h_BLD: states of the encoder.
        valid_BL: as given to the head.
        threshold: scores above it are spans.
        max_width: of a span, tokens; None for any.

    Returns:
        Spans with their scores.
    """
    if isinstance(head, EfficientGlobalPointer):
        return decode_efficient(head.parts(h_BLD), valid_BL, threshold, max_width)
    q_BTLd, k_BTLd = head.parts(h_BLD)
    allowed_BLL = _allowed(valid_BL, max_width)
    found = []
    for kind in range(head.types):
        scores_BLL = products(q_BTLd[:, kind], k_BTLd[:, kind])
        rows, firsts, lasts = ((scores_BLL > threshold) & allowed_BLL).nonzero(as_tuple=True)
        found.append((rows, firsts, lasts, torch.full_like(rows, kind), scores_BLL[rows, firsts, lasts]))
    return _spans(*(torch.cat(columns) for columns in zip(*found, strict=True)))


@torch.no_grad()
def decode_dense(scores_BTLL: Tensor, threshold: float = 0.0, max_width: int | None = None) -> TokenSpans:
    """Spans of a matrix of scores of all types, as a head's `forward` gives them."""
    length = scores_BTLL.shape[-1]
    above = scores_BTLL > threshold
    if max_width is not None:
        above = above.tril(min(max_width, length) - 1)
    rows, types, firsts, lasts = above.nonzero(as_tuple=True)
    return _spans(rows, firsts, lasts, types, scores_BTLL[rows, types, firsts, lasts])


@torch.no_grad()
def decode_efficient(
    parts: Parts, valid_BL: Tensor, threshold: float = 0.0, max_width: int | None = None
) -> TokenSpans:
    """Spans of the efficient head from its parts; see the module for how, `decode` for the arguments."""
    pairs_BLL = products(parts.q, parts.k)
    bound_BLL = pairs_BLL + parts.start.amax(dim=2).unsqueeze(2) + parts.end.amax(dim=2).unsqueeze(1)
    rows, firsts, lasts = ((bound_BLL > threshold) & _allowed(valid_BL, max_width)).nonzero(as_tuple=True)
    found = []
    for at in torch.split(torch.arange(len(rows), device=rows.device), max(1, AT_ONCE // parts.start.shape[2])):
        row_P, first_P, last_P = rows[at], firsts[at], lasts[at]
        pair_P = pairs_BLL[row_P, first_P, last_P]
        scores_PT = pair_P.unsqueeze(1) + parts.start[row_P, first_P] + parts.end[row_P, last_P]
        place, types = (scores_PT > threshold).nonzero(as_tuple=True)
        found.append((row_P[place], first_P[place], last_P[place], types, scores_PT[place, types]))
    return _spans(*(torch.cat(columns) for columns in zip(*found, strict=True)))


def _allowed(valid_BL: Tensor, max_width: int | None) -> Tensor:
    spans_BLL = spans_of(valid_BL)
    return spans_BLL if max_width is None else spans_BLL.tril(min(max_width, valid_BL.shape[1]) - 1)


def _spans(rows: Tensor, firsts: Tensor, lasts: Tensor, types: Tensor, scores: Tensor) -> TokenSpans:
    return TokenSpans.of(*(column.cpu().numpy() for column in (rows, firsts, lasts + 1, types, scores)))
