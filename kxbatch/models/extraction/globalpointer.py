"""GlobalPointer: a score for every span of a text and every type, above 0 where the span is an entity.

    GlobalPointer              s_a(i, j) = (R_i q_i,a) . (R_j k_j,a)
    Efficient GlobalPointer    s_a(i, j) = (R_i q_i) . (R_j k_j) / sqrt(d) + (u_a . [q_i; k_i] + v_a . [q_j; k_j]) / 2

i is the first token, j the last, R turns by the position (RoPE), which the terms of the types do not. Su, "GlobalPointer"
(2021), "Efficient GlobalPointer" (2022); Su et al., arXiv 2208.03054. With the page's formulas the parameters count

    GlobalPointer              2 d T (D + 1)
    Efficient GlobalPointer    2 d (D + 1) + 2 T (2 d + 1)

Shapes: B texts, L tokens, D width of the encoder's states, T types, d head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.rope import rope_table, turn

HeadKind = Literal["efficient-globalpointer", "globalpointer"]


class Parts(NamedTuple):
    """What the scores of the efficient head are made of: `s_a(i, j) = q_i . k_j + start_i,a + end_j,a`, float32.

    Attributes:
        q: queries, turned, with 1 / sqrt(d) in them, [B, L, d].
        k: keys, turned, [B, L, d].
        start: the type's term of a first token, halved, [B, L, T].
        end: the type's term of a last token, halved, [B, L, T].
    """

    q: Tensor
    k: Tensor
    start: Tensor
    end: Tensor


class _Head(nn.Module, ABC):
    """Positions, precision and sizes that both heads share.

    Args:
        dim: D.
        types: T.
        head_size: d; even, where positions turn.
        rope: turns queries and keys. Without it a score does not know how far apart the ends are.
        bias: of the projections.
        rope_base: wavelengths run from 2 pi to 2 pi base.

    Raises:
        ConfigError: a size below 1, or an odd head size with RoPE.
    """

    def __init__(
        self,
        dim: int,
        types: int,
        head_size: int = 64,
        rope: bool = True,
        bias: bool = True,
        rope_base: float = 10000.0,
    ) -> None:
        super().__init__()
        if min(dim, types, head_size) < 1:
            raise ConfigError(f"span head: width {dim}, types {types}, head_size {head_size}; each wants 1 or more")
        if rope and head_size % 2:
            raise ConfigError(f"span head: head_size {head_size} is odd, but RoPE turns pairs; take {head_size + 1}")
        self.types, self.head_size, self.rope, self.bias, self.rope_base = types, head_size, rope, bias, rope_base
        self._layers(dim)

    @abstractmethod
    def _layers(self, dim: int) -> None:
        """Make what has weights."""

    def _turned(self, x: Tensor) -> Tensor:
        if not self.rope:
            return x
        return turn(x, rope_table(x.shape[-2], self.head_size, self.rope_base, x))


class GlobalPointer(_Head):
    """A query and a key of each token for each type."""

    def _layers(self, dim: int) -> None:
        outputs, std = 2 * self.types * self.head_size, dim**-0.5 * self.head_size**-0.25
        self.project = _linear(dim, outputs, self.bias, std)

    def parts(self, h_BLD: Tensor) -> tuple[Tensor, Tensor]:
        """Turned queries and keys, both float32 [B, T, L, d]."""
        x_BLE = _precise(self.project(h_BLD))
        q, k = self._turned(x_BLE.view(*x_BLE.shape[:2], 2, self.types, -1).permute(2, 0, 3, 1, 4))
        return q, k

    def forward(self, h_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """Scores.

        Args:
            h_BLD: states of the encoder.
            valid_BL: tokens that a span may begin and end with: no padding, no special tokens; bool.

        Returns:
            float32 [B, T, L, L], of first and last token; -inf where the last is before the first or one is not valid.
        """
        q_BTLd, k_BTLd = self.parts(h_BLD)
        return products(q_BTLd, k_BTLd).masked_fill(~spans_of(valid_BL).unsqueeze(1), -torch.inf)


class EfficientGlobalPointer(_Head):
    """One query and key of each token say whether a span is an entity, two short products which."""

    def _layers(self, dim: int) -> None:
        width = 2 * self.head_size
        self.project = _linear(dim, width, self.bias, std=dim**-0.5)
        self.classify = _linear(width, 2 * self.types, self.bias, std=width**-0.5)

    def parts(self, h_BLD: Tensor) -> Parts:
        """What training and decoding can do without the scores of all types: see `Parts`."""
        qk_BLE = self.project(h_BLD)
        start_BLT, end_BLT = (_precise(self.classify(qk_BLE)) / 2).chunk(2, dim=-1)
        q_BLd, k_BLd = (self._turned(x) for x in _precise(qk_BLE).chunk(2, dim=-1))
        return Parts(q_BLd * self.head_size**-0.5, k_BLd, start_BLT, end_BLT)

    def forward(self, h_BLD: Tensor, valid_BL: Tensor) -> Tensor:
        """Scores, as of `GlobalPointer.forward`."""
        return dense_scores(self.parts(h_BLD), valid_BL)


def dense_scores(parts: Parts, valid_BL: Tensor) -> Tensor:
    """Scores [B, T, L, L] of all types, -inf where there is no span."""
    start_BTL, end_BTL = parts.start.transpose(1, 2), parts.end.transpose(1, 2)
    pairs_BLL = products(parts.q, parts.k).masked_fill(~spans_of(valid_BL), -torch.inf)
    return pairs_BLL.unsqueeze(1) + start_BTL.unsqueeze(3) + end_BTL.unsqueeze(2)


def products(q: Tensor, k: Tensor) -> Tensor:
    """`q_i . k_j`, [..., L, L], in full precision whatever autocast says: near the threshold digits count."""
    with torch.autocast(q.device.type, enabled=False):
        return q @ k.transpose(-1, -2)


def spans_of(valid_BL: Tensor) -> Tensor:
    """Bool [B, L, L]: first and last token are valid, and in order."""
    return (valid_BL.unsqueeze(2) & valid_BL.unsqueeze(1)).triu()


def parameter_count(kind: HeadKind, dim: int, types: int, head_size: int, bias: bool = True) -> int:
    """Parameters of a head by the formulas above."""
    one = int(bias)
    if kind == "globalpointer":
        return 2 * head_size * types * (dim + one)
    return 2 * head_size * (dim + one) + 2 * types * (2 * head_size + one)


def _linear(inputs: int, outputs: int, bias: bool, std: float) -> nn.Linear:
    """States have entries of size 1, and so have the first scores, of either head."""
    linear = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(linear.weight, std=std)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
