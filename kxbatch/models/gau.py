"""The Gated Attention Unit: attention and FFN in one layer with a single head.

    U = silu(X W_u), V = silu(X W_v), Z = silu(X W_z)
    Q = RoPE(Z g_q + b_q), K = RoPE(Z g_k + b_k)
    O = (U * (A(Q, K) V)) W_o

Hua et al., "Transformer Quality in Linear Time" (2022), section 2; Su, "FLASH" (2022).
Shapes: B texts, L tokens, D width of the stream, E width of U and V, S width of Z.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kxbatch.models.attention import Frame, explicit
from kxbatch.models.initialisation import initialise
from kxbatch.models.rope import turn
from kxbatch.models.text_encoder_config import TextEncoderConfig


def gate(u: Tensor, mixed: Tensor) -> Tensor:
    """`silu(u) * mixed`, both [..., E]."""
    if u.requires_grad and torch.is_grad_enabled():
        y: Tensor = _Gate.apply(u, mixed)  # type: ignore[no-untyped-call]  # torch says nothing of it
        return y
    return F.silu(u) * mixed


class _Gate(torch.autograd.Function):
    """Computes silu(u) again in the backward pass: that is faster than fresh memory for what would be kept."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, mixed: Tensor) -> Tensor:
        ctx.save_for_backward(u, mixed)
        return F.silu(u).mul_(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        u, mixed = ctx.saved_tensors
        u_grad = grads[0] * mixed
        torch.ops.aten.silu_backward.grad_input(u_grad, u, grad_input=u_grad)
        return u_grad, F.silu(u).mul_(grads[0])


class GatedAttentionUnit(nn.Module):
    """A GAU without residual and norm: [B, L, D] to [B, L, D].

    W_u, W_v and W_z are matrices of their own: on a CPU what three products cost more than one is less than what it costs
    to take their common output apart, to join the gradients, and to multiply by values that are not contiguous.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.u = nn.Linear(config.dim, config.inner, bias=config.bias)
        self.v = nn.Linear(config.dim, config.inner, bias=config.bias)
        self.z = nn.Linear(config.dim, config.key_dim, bias=config.bias)
        self.out = nn.Linear(config.inner, config.dim, bias=config.bias)
        for linear in (self.u, self.v, self.z, self.out):
            initialise(linear, config)
        self.scale = nn.Parameter(torch.ones(2, config.key_dim))  # g_q, g_k
        self.offset = nn.Parameter(torch.zeros(2, config.key_dim)) if config.bias else None  # b_q, b_k

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """The branch."""
        return self.around(x_BLD, frame, lambda q, k, v: explicit(q, k, v, frame.bias, frame.normalizer))

    def around(self, x_BLD: Tensor, frame: Frame, mix: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Tensor:
        """The branch, with `A V` left to another: it gets scaled queries, keys [B, L, S] and values, gives [B, L, E]."""
        q_BLS, k_BLS = self._queries_and_keys(F.silu(self.z(x_BLD)), frame)
        mixed_BLE = mix(q_BLS, k_BLS, F.silu(self.v(x_BLD)))
        y_BLD: Tensor = self.out(gate(self.u(x_BLD), mixed_BLE))
        return y_BLD

    def _queries_and_keys(self, z_BLS: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        both = z_BLS.unsqueeze(0) * self.scale[:, None, None].to(z_BLS.dtype)
        if self.offset is not None:
            both = both + self.offset[:, None, None].to(z_BLS.dtype)
        q_BLS, k_BLS = turn(both, frame.rope)
        return q_BLS * frame.scale, k_BLS
