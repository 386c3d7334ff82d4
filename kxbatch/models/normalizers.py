"""How scores become weights: `A = f(c_i q_i . k_j / sqrt(s))`, every normaliser being one f and one factor c_i of the row.

The factor goes into the queries, so that the score matrix is touched by nothing but the mask and f, and the softmax ones
can be left to `scaled_dot_product_attention`. n is the number of valid keys of the row, N0 the base length:

    name                  f          c                               A
    softmax               softmax    1
    softmax_plus          softmax    log max(n, 16) / log N0         Su, "Attention scale from entropy invariance" (2021)
    softmax_beyond        softmax    max(1, log n / log N0)          the same, for lengths above the training length N0
    squared_relu          relu^2     N0^(-1/2)                       relu(S)^2 / N0
    squared_relu_true     relu^2     n^(-1/2)                        relu(S)^2 / n; Hua et al., FLASH (2022)
    squared_relu_paper    relu^2     n^(-1)                          relu(S)^2 / n^2, as FLASH's code has it
    squared_relu_sum      relu^2     1, then over the row's sum      Su, "Attention and softmax go well together" (2022)
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kxbatch.models.text_encoder_config import Normalizer

LEAST_KEYS = 16  # below, log n of softmax_plus would flatten a short row to nothing


def row_factor(normalizer: Normalizer, count: Tensor, base_length: int) -> Tensor:
    """The factor c of each row.

    Args:
        normalizer: its name.
        count: valid keys of the rows, fp32, any shape.
        base_length: N0.

    Returns:
        fp32, the shape of `count`.
    """
    if normalizer == "softmax_plus":
        return count.clamp(min=LEAST_KEYS).log() / math.log(base_length)
    if normalizer == "softmax_beyond":
        return (count.log() / math.log(base_length)).clamp(min=1.0)
    if normalizer == "squared_relu":
        return torch.full_like(count, base_length**-0.5)
    if normalizer == "squared_relu_true":
        return count.rsqrt()
    if normalizer == "squared_relu_paper":
        return count.reciprocal()
    return torch.ones_like(count)


def is_softmax(normalizer: Normalizer) -> bool:
    """Whether f is the softmax."""
    return normalizer.startswith("softmax")


def weights(normalizer: Normalizer, scores: Tensor) -> Tensor:
    """The f of masked scores [..., L, L], row by row. A row without any positive score has weights 0 under relu^2."""
    if is_softmax(normalizer):
        return scores.softmax(dim=-1)
    squared = scores.relu().square()
    if normalizer != "squared_relu_sum":
        return squared
    return squared / squared.sum(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
