"""A text encoder: token ids to states, by GAU layers or by attention + FFN blocks. No positions but rotary ones.

Shapes: B texts, L tokens, D width of the stream. Weights come from torch's global generator: `torch.manual_seed` before
the construction settles them.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kxbatch.errors import ConfigError, nearest
from kxbatch.models.attention import FeedForward, Frame, MultiHeadAttention
from kxbatch.models.encoders.pooling import TokenStates, raw_head
from kxbatch.models.gau import GatedAttentionUnit
from kxbatch.models.initialisation import EMBEDDING_STD
from kxbatch.models.masks import Mask, valid_from_lengths
from kxbatch.models.norms import normalize
from kxbatch.models.text_encoder_config import TextEncoderConfig

__all__ = ["POOLINGS", "Mask", "TextEncoder", "TextEncoderConfig", "embed", "valid_from_lengths"]

POOLINGS = ("cls", "last-mean", "first-last-mean")


class TokenEmbedding(nn.Module):
    """The token vectors, and their use as an output matrix.

    Both go through `forward`, so that strategies which fetch parameters when a module is called (ZeRO-3) see both.
    """

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(config.vocabulary, config.dim), std=EMBEDDING_STD))

    def forward(self, x: Tensor, logits: bool = False) -> Tensor:
        """Vectors of ids, int64 [...] to [..., D]; with `logits` scores of every token, [..., D] to [..., V]."""
        return F.linear(x, self.weight) if logits else F.embedding(x, self.weight)


class Layer(nn.Module):
    """Base of both kinds: how a branch joins the stream."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.dropout = nn.Dropout(config.dropout)

    def join(self, x_BLD: Tensor, branch: Callable[[Tensor, Frame], Tensor], frame: Frame) -> Tensor:
        """`norm(alpha x + F(x))`, or `x + F(norm(x))`."""
        kind = self.config.norm_kind
        if self.config.norm == "pre":
            before: Tensor = x_BLD + self.dropout(branch(normalize(kind, x_BLD), frame))
            return before
        return normalize(kind, self.config.residual_scale * x_BLD + self.dropout(branch(x_BLD, frame)))


class GauLayer(Layer):
    """One GAU."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__(config)
        self.gau = GatedAttentionUnit(config)

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        return self.join(x_BLD, self.gau, frame)


class AttentionLayer(Layer):
    """Multi-head attention, then an FFN."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__(config)
        self.attention = MultiHeadAttention(config)
        self.ffn = FeedForward(config)

    def forward(self, x_BLD: Tensor, frame: Frame) -> Tensor:
        """[B, L, D] to [B, L, D]."""
        return self.join(self.join(x_BLD, self.attention, frame), self.ffn, frame)


class TextEncoder(nn.Module):
    """Token ids to states."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config)
        self.dropout = nn.Dropout(config.dropout)
        layer = GauLayer if config.block == "gau" else AttentionLayer
        self.layers = nn.ModuleList([layer(config) for _ in range(config.layers)])

    def forward(self, ids_BL: Tensor, mask: Mask) -> Tensor:
        """States of the last layer.

        Args:
            ids_BL: token ids, int64 [B, L].
            mask: who sees whom.

        Returns:
            [B, L, D], in the dtype of the weights, under autocast in that or in autocast's. What stands at padding has
            no meaning.
        """
        return self.states(ids_BL, mask)[1]

    def states(self, ids_BL: Tensor, mask: Mask) -> tuple[Tensor, Tensor]:
        """States of the first and of the last layer, as `forward` gives them."""
        kind = self.config.norm_kind
        x_BLD = self.dropout(normalize(kind, self.embed_tokens(ids_BL)))
        frame = Frame.of(self.config, mask, x_BLD)
        first_BLD = x_BLD
        for number, layer in enumerate(self.layers):
            x_BLD = self._run(layer, x_BLD, frame)
            first_BLD = x_BLD if number == 0 else first_BLD
        if self.config.norm == "pre":
            return normalize(kind, first_BLD), normalize(kind, x_BLD)
        return first_BLD, x_BLD

    @property
    def window(self) -> int:
        """Tokens that the vector of one is made of, itself the last."""
        return 1

    def embed_tokens(self, ids_BL: Tensor) -> Tensor:
        """What enters the layers, before the norm: [B, L, D]."""
        x_BLD: Tensor = self.embedding(ids_BL)
        return x_BLD

    def embed_last(self, ids_NK: Tensor) -> Tensor:
        """The same of the last token of each window, [N, D]; K is `window`."""
        x_ND: Tensor = self.embedding(ids_NK[:, -1])
        return x_ND

    def _run(self, layer: nn.Module, x_BLD: Tensor, frame: Frame) -> Tensor:
        if self.config.checkpointing and self.training:
            y_BLD: Tensor = checkpoint(layer, x_BLD, frame, use_reentrant=False)
        else:
            y_BLD = layer(x_BLD, frame)
        return y_BLD


def embed(states_BLD: Tensor, mask: Mask, pooling: str, first_BLD: Tensor | None = None) -> Tensor:
    """One vector a text.

    Args:
        states_BLD: states of the last layer.
        mask: of the batch.
        pooling: one of `POOLINGS`.
        first_BLD: states of the first layer, for `"first-last-mean"`.

    Returns:
        fp32 [B, D].

    Raises:
        ConfigError: no such pooling, or the first layer is missing.
    """
    if pooling not in POOLINGS:
        raise ConfigError(f"pooling = {pooling!r}: allowed are {', '.join(POOLINGS)}{nearest(pooling, POOLINGS)}")
    first = None if first_BLD is None else first_BLD.float()
    return raw_head(pooling)(TokenStates(states_BLD.float(), mask.valid.float(), first))
