"""Normalisation without gain or offset: a stream's scale is then the same in every layer, whatever was learnt.

Shapes: D width of the stream.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kxbatch.models.text_encoder_config import NormKind

EPS = 1e-6


def normalize(kind: NormKind, x: Tensor) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dimension, in x's dtype."""
    if kind == "layernorm":
        return F.layer_norm(x, x.shape[-1:], eps=EPS)
    if x.is_cpu and x.requires_grad and torch.is_grad_enabled():
        y: Tensor = _RmsNorm.apply(x)  # type: ignore[no-untyped-call]  # torch says nothing of it
        return y
    return F.rms_norm(x, x.shape[-1:], eps=EPS)


class _RmsNorm(torch.autograd.Function):
    """RMSNorm in three passes over memory and its gradient in four; torch's on a CPU makes several times as many.

    It keeps what it returns, which the next layer keeps anyway, and not what it was given. In bf16 the factor of a row is
    rounded too, so a row's length is right to 2^-8.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        norm = norm.to(torch.promote_types(x.dtype, torch.float32))
        factor = (norm.square() / x.shape[-1] + EPS).rsqrt().to(x.dtype)
        y: Tensor = x * factor
        ctx.save_for_backward(y, factor)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        y, factor = ctx.saved_tensors
        along: Tensor = torch.linalg.vecdot(grads[0], y).unsqueeze(-1) / y.shape[-1]
        across = torch.addcmul(grads[0], y, along, value=-1)
        x_grad: Tensor = across * factor
        return x_grad
