"""Token vectors to one vector a text, in fp32.

Shapes: B texts, L tokens, D hidden width. Padding is on the right and masked.
The four poolings of a raw encoder are those of Su et al., "Whitening Sentence Representations for Better Semantics
and Faster Retrieval" (2021), section 4: P1 cls, P2 pooler, P3 last-mean, P4 first-last-mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kxbatch.errors import ConfigError

RAW_POOLINGS = ("cls", "pooler", "last-mean", "first-last-mean")


@dataclass(frozen=True)
class TokenStates:
    """What a transformer made of a batch.

    Attributes:
        last: output of the last layer, fp32 [B, L, D].
        mask: 1 for tokens, 0 for padding, fp32 [B, L].
        first: output of the first layer, fp32 [B, L, D]; only where it is asked for.
        pooled: the transformer's own pooled output, fp32 [B, D]; None if it has none.
    """

    last: Tensor
    mask: Tensor
    first: Tensor | None = None
    pooled: Tensor | None = None


Head = Callable[[TokenStates], Tensor]


def masked_mean(states_BLD: Tensor, mask_BL: Tensor) -> Tensor:
    """Mean over the tokens that count [B, D]; 0 for a text without any."""
    total_BD = torch.bmm(mask_BL.unsqueeze(1), states_BLD).squeeze(1)
    return total_BD / mask_BL.sum(dim=1, keepdim=True).clamp(min=1e-9)


def raw_head(pooling: str) -> Head:
    """Pooling of a raw encoder, by its name in `RAW_POOLINGS`."""
    return {"cls": _cls, "pooler": _pooler, "last-mean": _last_mean, "first-last-mean": _first_last_mean}[pooling]


def _cls(states: TokenStates) -> Tensor:
    return states.last[:, 0]


def _pooler(states: TokenStates) -> Tensor:
    if states.pooled is None:
        allowed = ", ".join(p for p in RAW_POOLINGS if p != "pooler")
        raise ConfigError(f"pooling = 'pooler': this model has no trained pooler; allowed are {allowed}")
    return states.pooled


def _last_mean(states: TokenStates) -> Tensor:
    return masked_mean(states.last, states.mask)


def _first_last_mean(states: TokenStates) -> Tensor:
    if states.first is None:
        allowed = ", ".join(p for p in RAW_POOLINGS if p != "first-last-mean")
        raise ConfigError(f"pooling = 'first-last-mean': this model shows no first layer; allowed are {allowed}")
    first_BD = masked_mean(states.first, states.mask)
    return (first_BD + masked_mean(states.last, states.mask)) / 2
