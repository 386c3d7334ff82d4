"""The loss of a span head: a softplus over many spans, for each text and type, once for the gold ones, once for all others.

    log(1 + sum_{gold} exp(-s)) + log(1 + sum_{others} exp(s))

Su, "GlobalPointer" (2021); with soft labels Su (2022); sparse, from the places of gold spans only, Su (2022). A span is a
score that is not masked: masked ones are -inf, or the lowest number of their dtype where that has no -inf to spare. A gold span
that is masked counts for nothing. All is computed in float32 or better, and a loss is the mean over texts with a span, and types.

Shapes: B texts, T types, L tokens, S gold spans; gold spans are int64 [S, 4] of row, type, start, end (exclusive).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kxbatch.models.extraction.globalpointer import Parts, products, spans_of


def dense_loss(scores_BTLL: Tensor, gold_BTLL: Tensor) -> Tensor:
    """The loss from labels of all spans.

    With soft labels t the terms become `t exp(-s)` and `(1 - t) exp(s)`, each over all spans.

    Args:
        scores_BTLL: of a head.
        gold_BTLL: bool, or probabilities, 0 to 1.

    Returns:
        A scalar.
    """
    scores, shown = _precise(scores_BTLL), _shown(scores_BTLL)
    gold = gold_BTLL.to(scores.dtype)
    missed = torch.where(shown & (gold > 0), gold.log() - scores, -torch.inf)
    spurious = torch.where(shown & (gold < 1), scores + torch.log1p(-gold), -torch.inf)
    return _mean(_log_one_plus(missed) + _log_one_plus(spurious), _shown_texts(scores_BTLL))


def sparse_loss(scores_BTLL: Tensor, gold: Tensor) -> Tensor:
    """The same from gold spans: exact, since their scores leave the second sum before it is taken, not after.

    Args:
        scores_BTLL: of a head.
        gold: int64 [S, 4]; one that comes twice counts once.

    Returns:
        A scalar.
    """
    rows, types, *_ = places = _places(gold)
    scores = _precise(scores_BTLL).masked_fill(~_shown(scores_BTLL), -torch.inf)
    others = scores.index_put(places, scores.new_tensor(-torch.inf))
    group = rows * scores.shape[1] + types
    missed_BT = _missed(scores[places], group, scores.shape[0] * scores.shape[1]).view(scores.shape[:2])
    return _mean(missed_BT + _log_one_plus(others), _shown_texts(scores_BTLL))


def factorised_loss(parts: Parts, valid_BL: Tensor, gold: Tensor) -> Tensor:
    """The same for the efficient head without the scores of all types, which at 50 types are most of a training step's memory.

    Without gold spans the second sum is `sum_ij exp(start_i) exp(q_i . k_j) exp(end_j)`: a product of matrices for all types at
    once, in float64, where terms below exp(-700) of the largest conceivable one vanish. The few pairs of a text and a type that
    have gold spans are summed over their own scores.

    Args:
        parts: of the efficient head.
        valid_BL: as given to the head.
        gold: int64 [S, 4]; one that comes twice counts once.

    Returns:
        A scalar.
    """
    rows, types, firsts, lasts = _places(gold)
    texts, kinds = parts.start.shape[0], parts.start.shape[2]
    pairs_BLL = products(parts.q, parts.k).masked_fill(~spans_of(valid_BL), -torch.inf)
    labelled_P, number_S = torch.unique(rows * kinds + types, return_inverse=True)
    row_P, type_P = labelled_P // kinds, labelled_P % kinds
    start_PL, end_PL = parts.start[row_P, :, type_P], parts.end[row_P, :, type_P]
    scores_PLL = pairs_BLL[row_P] + start_PL.unsqueeze(2) + end_PL.unsqueeze(1)
    others_PLL = scores_PLL.index_put((number_S, firsts, lasts), scores_PLL.new_tensor(-torch.inf))
    missed_P = _missed(scores_PLL[number_S, firsts, lasts], number_S, len(labelled_P))
    spurious_BT = _log_one_plus_products(pairs_BLL, parts)
    without = torch.ones(texts * kinds, dtype=torch.bool, device=rows.device).index_fill(0, labelled_P, False)
    total = (spurious_BT.flatten() * without).sum() + (missed_P + _log_one_plus(others_PLL)).sum()
    return total / (valid_BL.any(dim=1).sum().clamp(min=1) * kinds)


def symmetric_divergence(s_BTLL: Tensor, t_BTLL: Tensor) -> Tensor:
    """R-Drop for span heads: `sum (sigmoid(s) - sigmoid(t)) (s - t)` over the spans of a text and type; mean over these.

    It is the symmetric Kullback-Leibler divergence of the spans' Bernoulli distributions. Su, "R-Drop for multi-label" (2022).

    Args:
        s_BTLL: scores of a pass with dropout.
        t_BTLL: scores of another pass over the same texts, masked alike.

    Returns:
        A scalar.
    """
    hidden = ~_shown(s_BTLL)
    s, t = (_precise(x).masked_fill(hidden, 0.0) for x in (s_BTLL, t_BTLL))
    return _mean(((s.sigmoid() - t.sigmoid()) * (s - t)).sum(dim=(2, 3)), _shown_texts(s_BTLL))


def _places(gold: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, types, firsts, ends = torch.unique(gold, dim=0).unbind(1)
    return rows, types, firsts, ends - 1


def _missed(scores_S: Tensor, group_S: Tensor, groups: int) -> Tensor:
    """`log(1 + sum exp(-s))` of each group; masked scores add nothing."""
    found = scores_S > -torch.inf
    negated_S = torch.where(found, -scores_S, -torch.inf)
    top = scores_S.new_zeros(groups).scatter_reduce(0, group_S, negated_S.detach(), "amax")
    summed = (-top).exp().index_add(0, group_S, (negated_S - top[group_S]).exp())
    return top + summed.log()


def _log_one_plus(x: Tensor) -> Tensor:
    """`log(1 + sum exp(x))` over the last two dimensions."""
    flat = x.flatten(-2)
    return torch.cat([flat.new_zeros(*flat.shape[:-1], 1), flat], dim=-1).logsumexp(dim=-1)


def _log_one_plus_products(pairs_BLL: Tensor, parts: Parts) -> Tensor:
    """`log(1 + sum_ij exp(pair_ij + start_i + end_j))` of each text and type, [B, T]."""
    pairs, start, end = (x.double() for x in (pairs_BLL, parts.start, parts.end))
    top_B, top_start_BT, top_end_BT = (
        pairs.detach().amax(dim=(1, 2)),
        start.detach().amax(dim=1),
        end.detach().amax(dim=1),
    )
    top_B = top_B.masked_fill(top_B == -torch.inf, 0.0)  # a text without a span
    from_BLT = (pairs - top_B[:, None, None]).exp() @ (end - top_end_BT.unsqueeze(1)).exp()
    sum_BT = (from_BLT * (start - top_start_BT.unsqueeze(1)).exp()).sum(dim=1)
    log_BT = sum_BT.clamp(min=1e-300).log() + top_B.unsqueeze(1) + top_start_BT + top_end_BT
    return torch.logaddexp(log_BT, log_BT.new_zeros(())).to(pairs_BLL.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _shown(scores: Tensor) -> Tensor:
    return scores > torch.finfo(scores.dtype).min


def _shown_texts(scores_BTLL: Tensor) -> Tensor:
    """Texts that have a span of one token, and so a span at all; bool [B]."""
    return _shown(scores_BTLL[:, 0].diagonal(dim1=1, dim2=2)).any(dim=1)


def _mean(loss_BT: Tensor, texts_B: Tensor) -> Tensor:
    """Texts without a span have a loss of 0."""
    return loss_BT.sum() / (texts_B.sum().clamp(min=1) * loss_BT.shape[1])
