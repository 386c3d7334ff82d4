"""Sums and maxima over all sequences of tags of a linear chain, and what they say about spans.

    score(y) = sum_t (e_t[y_t] + A[y_t-1, y_t]),  the tag before the first token is tag 0

Forward, backward and Viterbi: Rabiner (1989), III, with scores for logarithms of probabilities.

Shapes: B texts, L tokens, K tags, S spans.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from kxbatch.models.extraction.token_spans import TokenSpans

FORBIDDEN = -1e9  # exp of it is 0, and unlike those of -inf its gradients are numbers


class Chain(NamedTuple):
    """A chain for each text.

    Attributes:
        emissions: scores of tags, [B, L, K].
        transitions: scores from row to column, [K, K]; `FORBIDDEN` where there is no way.
        valid: tokens with a tag, bool [B, L], contiguous in each text.
    """

    emissions: Tensor
    transitions: Tensor
    valid: Tensor


def path_scores(chain: Chain, tags_BL: Tensor) -> Tensor:
    """Score of one sequence of tags, [B]; tags at tokens that are not valid are not looked at."""
    tags_BL = torch.where(chain.valid, tags_BL, 0)
    chosen_BL = chain.emissions.gather(2, tags_BL.unsqueeze(2)).squeeze(2)
    before_BL = torch.cat([torch.zeros_like(tags_BL[:, :1]), tags_BL[:, :-1]], dim=1)
    return ((chosen_BL + chain.transitions[before_BL, tags_BL]) * chain.valid).sum(dim=1)


def forward(chain: Chain) -> Tensor:
    """Log of the sum over all beginnings up to a token and its tag, [B, L, K]; tokens after the last valid one repeat it."""
    sums_BK, found = _start(chain), []
    for e_BK, valid_B in zip(chain.emissions.unbind(1), chain.valid.unbind(1), strict=True):
        next_BK = (sums_BK.unsqueeze(2) + chain.transitions).logsumexp(dim=1) + e_BK
        sums_BK = torch.where(valid_B.unsqueeze(1), next_BK, sums_BK)
        found.append(sums_BK)
    return torch.stack(found, dim=1)


def backward(chain: Chain) -> Tensor:
    """Log of the sum over all that follows a token and its tag, [B, L, K]; 0 at the last valid one."""
    sums_BK = torch.zeros_like(chain.emissions[:, 0])
    found = [sums_BK]
    for at in range(chain.emissions.shape[1] - 1, 0, -1):
        before_BK = (chain.transitions + (chain.emissions[:, at] + sums_BK).unsqueeze(1)).logsumexp(dim=2)
        sums_BK = torch.where(chain.valid[:, at, None], before_BK, sums_BK)
        found.append(sums_BK)
    return torch.stack(found[::-1], dim=1)


def viterbi(chain: Chain) -> Tensor:
    """The sequence of tags with the highest score, int64 [B, L]; 0 at tokens that are not valid."""
    best_BK, steps = _start(chain), []
    for e_BK, valid_B in zip(chain.emissions.unbind(1), chain.valid.unbind(1), strict=True):
        next_BK, from_BK = (best_BK.unsqueeze(2) + chain.transitions).max(dim=1)
        best_BK = torch.where(valid_B.unsqueeze(1), next_BK + e_BK, best_BK)
        steps.append(from_BK)
    tag_B, tags = best_BK.argmax(dim=1), []
    for from_BK, valid_B in zip(steps[::-1], chain.valid.unbind(1)[::-1], strict=True):
        tags.append(torch.where(valid_B, tag_B, 0))
        tag_B = torch.where(valid_B, from_BK.gather(1, tag_B.unsqueeze(1)).squeeze(1), tag_B)
    return torch.stack(tags[::-1], dim=1)


def span_log_probabilities(chain: Chain, spans: TokenSpans) -> Tensor:
    """Log-probability [S] that the tags, as `bio_tags` numbers them, have each span: B-x, then I-x to its end, then no I-x.

    Args:
        chain: of all texts.
        spans: of valid tokens.
    """
    rows, types, starts, ends = spans.gold(chain.emissions.device).unbind(1)
    begin_S, inside_S, longer_S = 1 + 2 * types, 2 + 2 * types, ends - starts > 1
    # sums of I-x up to a token, so that any stretch of them is a difference
    sums_BLK = chain.emissions.cumsum(dim=1)
    stretch_S = sums_BLK[rows, ends - 1, inside_S] - sums_BLK[rows, starts, inside_S]
    steps_S = chain.transitions[begin_S, inside_S] + (ends - starts - 2) * chain.transitions[inside_S, inside_S]
    body_S = torch.where(longer_S, stretch_S + steps_S, 0.0)
    last_S = torch.where(longer_S, inside_S, begin_S)
    alpha_BLK = forward(chain)
    log_p_S = alpha_BLK[rows, starts, begin_S] + body_S + _follow(chain, rows, ends, last_S, inside_S)
    return log_p_S - alpha_BLK[:, -1].logsumexp(dim=1)[rows]


def _follow(chain: Chain, rows: Tensor, ends: Tensor, last_S: Tensor, inside_S: Tensor) -> Tensor:
    """Log of the sum over all that may follow the last tag of a span, its I-x excluded; 0 where the text ends."""
    length = chain.valid.shape[1]
    at_S = ends.clamp(max=length - 1)
    sums_SK = chain.transitions[last_S] + chain.emissions[rows, at_S] + backward(chain)[rows, at_S]
    sums_S = sums_SK.scatter(1, inside_S.unsqueeze(1), FORBIDDEN).logsumexp(dim=1)
    return torch.where((ends < length) & chain.valid[rows, at_S], sums_S, 0.0)


def _start(chain: Chain) -> Tensor:
    """Logs of the tag before the first token, [B, K]."""
    start_BK = torch.full_like(chain.emissions[:, 0], FORBIDDEN)
    start_BK[:, 0] = 0.0
    return start_BK
