"""The encoder that a job trained: Gated Attention Units or attention, as `kxbatch.models.text_encoder` has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kxbatch.errors import ConfigError, nearest
from kxbatch.models.encoders.batches import cut_batches
from kxbatch.models.encoders.device import (
    CPU_TOKENS,
    DTYPES,
    GPU_TOKENS,
    resolve_device,
    resolve_precision,
    run_batches,
)
from kxbatch.models.encoders.protocol import Encoded, EncoderSettings, finished, refuse
from kxbatch.models.encoders.tokens import TokenizedTexts, Tokens, set_tokenizer_threads
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import POOLINGS, TextEncoder, embed
from kxbatch.models.tokenization import FRAME
from kxbatch.models.trained_text import TrainedText, load_weights


class TrainedEncoder:
    """Vectors of texts, by an encoder trained on masked tokens.

    Attributes:
        dim: length of a vector.
        device: where it computes.
        precision: `fp32` or `bf16`; pooling is fp32 in any case.
        max_length: most tokens of a text that are read.
    """

    def __init__(self, encoder: TextEncoder, tokens: Tokens, settings: EncoderSettings) -> None:
        self._encoder, self._tokens, self._pooling = encoder, tokens, settings.pooling
        self._threads, self._normalize = settings.threads, settings.normalize
        self.device, self.precision = settings.device, settings.precision
        self.max_length, self.dim = tokens.max_length, encoder.config.dim
        self._token_budget = settings.token_budget or (CPU_TOKENS if self.device == "cpu" else GPU_TOKENS)

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

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of texts; see `Encoder`."""
        tokenized = self._tokens.tokenize(texts)
        vectors = np.empty((len(texts), self.dim), np.float32)
        batches = cut_batches(tokenized.lengths, self._token_budget)

        def work(i: int) -> None:
            vectors[batches[i]] = self._vectors(tokenized, batches[i])

        run_batches(work, len(batches), self._threads, self.device)
        return finished(vectors, tokenized.truncated, normalize=self._normalize)

    def _vectors(self, tokenized: TokenizedTexts, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        ids_BL, mask_BL = (torch.from_numpy(a).to(self.device) for a in tokenized.padded(rows, self._tokens.pad_id))
        with torch.inference_mode():
            mask = Mask.padding(mask_BL.bool())
            first_BLD, last_BLD = self._encoder.states(ids_BL, mask)
            vectors: npt.NDArray[np.float32] = embed(last_BLD, mask, self._pooling, first_BLD).cpu().numpy()
        return vectors


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
