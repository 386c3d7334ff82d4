"""Normalisation without gain or offset: a stream's scale is then the same in every layer, whatever was learnt."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kxbatch.models.text_encoder_config import NormKind

EPS = 1e-6


def normalize(kind: NormKind, x_BLD: Tensor) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016) over the last dimension, in x's dtype."""
    if kind == "layernorm":
        return F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=EPS)
    return F.rms_norm(x_BLD, x_BLD.shape[-1:], eps=EPS)
