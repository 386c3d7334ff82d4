"""The encoder that a job trained: Gated Attention Units or attention, as `kxbatch.models.text_encoder` has them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.models.device import DTYPES, resolve_device, resolve_precision
from kxbatch.models.encoders.protocol import EncoderSettings, refuse
from kxbatch.models.encoders.token_encoder import TokenEncoder
from kxbatch.models.encoders.tokens import Tokens, set_tokenizer_threads
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import POOLINGS, TextEncoder, embed
from kxbatch.models.tokenization import FRAME
from kxbatch.models.trained_text import TrainedText, load_weights


class TrainedEncoder(TokenEncoder):
    """Vectors of texts, by an encoder trained on masked tokens."""

    def __init__(self, encoder: TextEncoder, tokens: Tokens, settings: EncoderSettings) -> None:
        super().__init__(tokens, settings)
        self._encoder, self._pooling, self.dim = encoder, settings.pooling, encoder.config.dim

    @classmethod
    def load(cls, folder: Path, settings: EncoderSettings) -> TrainedEncoder:
        """Load from a folder.

        Raises:
            ConfigError: the folder holds no such encoder, or a setting does not fit it.
        """
        refuse(settings, "an encoder trained by kxbatch", "trust_remote_code")
        set_tokenizer_threads(settings.threads)
        trained = TrainedText.read(folder)
        settings = _resolved(settings, trained)
        model = MaskedLm(trained.encoder)
        load_weights(model, folder)
        tokens = Tokens(trained.tokenizer(folder), settings.max_length or trained.max_length, settings.prompt)
        encoder = model.encoder.eval().to(settings.device, DTYPES[settings.precision])
        return cls(encoder, tokens, settings)

    def _pooled(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        mask = Mask.padding(mask_BL.bool())
        first_BLD, last_BLD = self._encoder.states(ids_BL, mask)
        return embed(last_BLD, mask, self._pooling, first_BLD)


def _resolved(settings: EncoderSettings, trained: TrainedText) -> EncoderSettings:
    """The settings with every `auto` filled in."""
    pooling = trained.pooling if settings.pooling == "auto" else settings.pooling
    if pooling not in POOLINGS:
        raise ConfigError(
            f"pooling = '{pooling}': an encoder trained by kxbatch has {', '.join(POOLINGS)}{nearest(pooling, POOLINGS)}"
        )
    if settings.max_length is not None and settings.max_length <= FRAME:
        raise ConfigError(f"max_length = {settings.max_length}: at least {FRAME + 1}, two tokens frame a text")
    device = resolve_device(settings.device)
    precision = resolve_precision(settings.precision, device)
    return replace(settings, pooling=pooling, device=device, precision=precision)
