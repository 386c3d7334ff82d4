"""Masked language model: an encoder, and its own token vectors as output matrix.

Shapes: B texts, L tokens, M masked tokens, D width, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor, nn

from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.text_encoder_config import TextEncoderConfig


class MaskedLm(nn.Module):
    """An encoder with a tied head: no transform between, no biases. The states have length sqrt(D) by their norm."""

    def __init__(self, config: TextEncoderConfig, encoder: TextEncoder | None = None) -> None:
        super().__init__()
        self.encoder = TextEncoder(config) if encoder is None else encoder

    def forward(self, ids_BL: Tensor, mask: Mask, positions: Tensor) -> Tensor:
        """Logits at some tokens only: a product over the whole vocabulary for each token is most of a small model's time.

        Args:
            ids_BL: token ids, int64 [B, L].
            mask: who sees whom.
            positions: the tokens asked for, `b * L + l`, int64 [M].

        Returns:
            [M, V].
        """
        states_MD = self.encoder(ids_BL, mask).flatten(0, 1).index_select(0, positions)
        logits_MV: Tensor = self.encoder.embedding(states_MD, logits=True)
        return logits_MV
