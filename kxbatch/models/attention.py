"""Scores, mask, weights, values: what a GAU and an attention block have in common; and the attention block.

Shapes: B texts, L tokens, D width of the stream, S width of a query, E width of a value, H heads. Queries, keys and values
of a GAU are [B, L, .], of an attention block [B, H, L, .].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.initialisation import initialise
from kxbatch.models.masks import Mask
from kxbatch.models.normalizers import is_softmax, row_factor, weights
from kxbatch.models.rope import rope_table, turn
from kxbatch.models.text_encoder_config import Normalizer, TextEncoderConfig


@dataclass(frozen=True)
class Frame:
    """What all layers of one pass share.

    Attributes:
        rope: cosines and sines of the positions, [2, L, S / 2].
        scale: factor of the queries, the row's factor of the normaliser over sqrt(S), [B, 1 or L, 1].
        bias: 0 for pairs that count, the lowest number for others, [B, 1 or L, L]; None where all count.
        normalizer: its name.
    """

    rope: Tensor
    scale: Tensor
    bias: Tensor | None
    normalizer: Normalizer

    @classmethod
    def of(cls, config: TextEncoderConfig, mask: Mask, weight: Tensor) -> Frame:
        """The frame of a batch.

        Args:
            config: of the encoder.
            mask: of the batch.
            weight: of a layer: its device, and its dtype where autocast is off.
        """
        kind = weight.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype
        like = weight.new_empty(0, dtype=dtype)
        factor = row_factor(config.normalizer, mask.count, config.base_length) * config.query_width**-0.5
        bias = None
        if mask.seen is not None:
            # finite, so that a text without any token gives numbers
            bias = torch.zeros_like(mask.seen, dtype=dtype).masked_fill(~mask.seen, torch.finfo(dtype).min)
        rope = rope_table(mask.valid.shape[1], config.query_width, config.rope_base, like)
        return cls(rope, factor.unsqueeze(-1).to(dtype), bias, config.normalizer)


def explicit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, normalizer: Normalizer) -> Tensor:
    """`A V` with A written out; every normaliser.

    Args:
        q: scaled queries [..., L, S].
        k: keys [..., L, S].
        v: values [..., L, E].
        bias: added to the scores, broadcast to [..., L, L].
        normalizer: its name.

    Returns:
        [..., L, E].
    """
    scores = q @ k.transpose(-1, -2)
    if bias is not None:
        scores = scores + bias
    return weights(normalizer, scores) @ v


def fused(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """The same for softmax, by torch's kernel; q, k and v are [B, H, L, .]."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)


class MultiHeadAttention(nn.Module):
    """Multi-head attention, rotary positions: [B, L, D] to [B, L, D]."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.project = nn.Linear(config.dim, 3 * config.dim, bias=config.bias)
        self.out = nn.Linear(config.dim, config.dim, bias=config.bias)
        initialise(self.project, config)
        initialise(self.out, config)

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """The branch, without residual and norm."""
        qkv = self.project(x_BLD).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q, k = turn(qkv[:2], frame.rope)
        q, v = q * frame.scale.unsqueeze(1), qkv[2]
        bias = None if frame.bias is None else frame.bias.unsqueeze(1)
        mixed = fused(q, k, v, bias) if is_softmax(frame.normalizer) else explicit(q, k, v, bias, frame.normalizer)
        y_BLD: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return y_BLD


class FeedForward(nn.Module):
    """GELU between two matrices, width 4 D: [B, L, D] to [B, L, D]."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.wide = nn.Linear(config.dim, 4 * config.dim, bias=config.bias)
        self.out = nn.Linear(4 * config.dim, config.dim, bias=config.bias)
        initialise(self.wide, config)
        initialise(self.out, config)

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """The branch; it looks at no other token."""
        y_BLD: Tensor = self.out(F.gelu(self.wide(x_BLD)))
        return y_BLD
