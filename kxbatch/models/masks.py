"""Who sees whom in a batch, and how many keys each row sees.

Shapes: B texts, L tokens; of a pair [query, key] the key is last. Padding may be on either side.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kxbatch.errors import ConfigError


@dataclass(frozen=True)
class Mask:
    """Made by one of its constructors.

    Attributes:
        valid: tokens that are not padding, bool [B, L].
        seen: pairs that count, bool [B, 1, L] (all rows of a text see the same) or [B, L, L]; None where all do.
        count: valid keys of each row, fp32 [B, 1] or [B, L]; at least 1. Rows of padding see what others would see
            there, so that no row is empty.
    """

    valid: Tensor
    seen: Tensor | None
    count: Tensor

    @classmethod
    def full(cls, texts: int, length: int, device: torch.device | str = "cpu") -> Mask:
        """No padding, every token sees every token. Costs nothing at all."""
        valid_BL = torch.ones(texts, length, dtype=torch.bool, device=device)
        return cls(valid_BL, None, torch.full((texts, 1), float(length), device=device))

    @classmethod
    def padding(cls, valid_BL: Tensor) -> Mask:
        """Every token sees every valid token.

        Args:
            valid_BL: tokens that are not padding, bool [B, L]; `valid_from_lengths` makes it from lengths.
        """
        _check(valid_BL)
        return cls(valid_BL, valid_BL.unsqueeze(1), _at_least_one(valid_BL.sum(dim=1, keepdim=True)))

    @classmethod
    def causal(cls, valid_BL: Tensor) -> Mask:
        """Every token sees itself and the valid tokens before it."""
        _check(valid_BL)
        return cls._of_pairs(valid_BL, _before(valid_BL))

    @classmethod
    def prefix(cls, valid_BL: Tensor, source_B: Tensor) -> Mask:
        """Prefix-LM: the source sees the source, the target sees the source and the targets up to itself.

        Dong et al., UniLM (2019), "sequence-to-sequence".

        Args:
            valid_BL: tokens that are not padding, bool [B, L]; padding on the right.
            source_B: tokens of each text's source, int64 [B].
        """
        _check(valid_BL)
        if source_B.shape != valid_BL.shape[:1]:
            raise ConfigError(f"prefix mask: source lengths {list(source_B.shape)} for {len(valid_BL)} texts")
        source_BL = valid_from_lengths(source_B, valid_BL.shape[1])
        return cls._of_pairs(valid_BL, _before(valid_BL) | source_BL.unsqueeze(1))

    @classmethod
    def _of_pairs(cls, valid_BL: Tensor, pairs: Tensor) -> Mask:
        seen_BLL = pairs & valid_BL.unsqueeze(1)
        return cls(valid_BL, seen_BLL, _at_least_one(seen_BLL.sum(dim=2)))


def valid_from_lengths(lengths_B: Tensor, length: int) -> Tensor:
    """Bool [B, L]: the first `lengths_B[b]` tokens of text b; padding on the right."""
    return torch.arange(length, device=lengths_B.device) < lengths_B.unsqueeze(1)


def _before(valid_BL: Tensor) -> Tensor:
    token_L = torch.arange(valid_BL.shape[1], device=valid_BL.device)
    return (token_L <= token_L.unsqueeze(1)).unsqueeze(0)


def _at_least_one(count: Tensor) -> Tensor:
    return count.clamp(min=1).to(torch.float32)


def _check(valid_BL: Tensor) -> None:
    if valid_BL.dtype != torch.bool or valid_BL.dim() != 2:
        raise ConfigError(f"mask: expected bool [texts, tokens], got {valid_BL.dtype} {list(valid_BL.shape)}")
