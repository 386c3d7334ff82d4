"""The Gated Attention Unit: attention and FFN in one layer with a single head.

    U = silu(X W_u), V = silu(X W_v), Z = silu(X W_z)
    Q = RoPE(Z g_q + b_q), K = RoPE(Z g_k + b_k)
    O = (U * (A(Q, K) V)) W_o

Hua et al., "Transformer Quality in Linear Time" (2022), section 2; Su, "FLASH" (2022).
Shapes: B texts, L tokens, D width of the stream, E width of U and V, S width of Z.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.attention import Frame, explicit
from kxbatch.models.initialisation import initialise
from kxbatch.models.rope import turn
from kxbatch.models.text_encoder_config import TextEncoderConfig


class GatedAttentionUnit(nn.Module):
    """A GAU without residual and norm: [B, L, D] to [B, L, D].

    W_u, W_v and W_z are one matrix, `project`: one large product is faster than three.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.widths = [config.inner, config.inner, config.key_dim]
        self.project = nn.Linear(config.dim, sum(self.widths), bias=config.bias)
        self.out = nn.Linear(config.inner, config.dim, bias=config.bias)
        initialise(self.project, config)
        initialise(self.out, config)
        self.scale = nn.Parameter(torch.ones(2, config.key_dim))  # g_q, g_k
        self.offset = nn.Parameter(torch.zeros(2, config.key_dim)) if config.bias else None  # b_q, b_k

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """The branch."""
        u_BLE, v_BLE, z_BLS = torch.split(F.silu(self.project(x_BLD)), self.widths, dim=-1)
        q_BLS, k_BLS = self._queries_and_keys(z_BLS, frame)
        mixed_BLE = explicit(q_BLS, k_BLS, v_BLE, frame.bias, frame.normalizer)
        y_BLD: Tensor = self.out(u_BLE * mixed_BLE)
        return y_BLD

    def _queries_and_keys(self, z_BLS: Tensor, frame: Frame) -> tuple[Tensor, Tensor]:
        both = z_BLS.unsqueeze(0) * self.scale[:, None, None].to(z_BLS.dtype)
        if self.offset is not None:
            both = both + self.offset[:, None, None].to(z_BLS.dtype)
        q_BLS, k_BLS = turn(both, frame.rope)
        return q_BLS * frame.scale, k_BLS
