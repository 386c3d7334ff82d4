"""Encoders made of a Hugging Face transformer, raw or in a sentence-transformers folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.models.encoders.batches import cut_batches
from kxbatch.models.encoders.device import (
    CPU_TOKENS,
    DTYPES,
    GPU_TOKENS,
    cpu_has_bf16,
    resolve_device,
    resolve_precision,
    run_batches,
)
from kxbatch.models.encoders.folders import ModelFolder, read_folder
from kxbatch.models.encoders.linear import can_pack, pack_linears
from kxbatch.models.encoders.loading import load_model, load_tokenizer, resolve_max_length
from kxbatch.models.encoders.pooling import Head, TokenStates, raw_head
from kxbatch.models.encoders.protocol import Encoded, EncoderSettings, finished
from kxbatch.models.encoders.sentence_modules import sentence_head
from kxbatch.models.encoders.tokens import TokenizedTexts, Tokens, set_tokenizer_threads


class TransformerEncoder:
    """A transformer with a head that makes one vector of its token vectors.

    Attributes:
        dim: length of a vector.
        device: where it computes.
        precision: `fp32` or `bf16`; pooling and what follows are fp32 in any case.
        max_length: most tokens of a text that are read.
    """

    def __init__(self, model: Any, tokens: Tokens, head: Head, settings: EncoderSettings, *, first_layer: bool) -> None:
        self._model, self._tokens, self._head = model, tokens, head
        self._first_layer = first_layer
        self._threads, self._normalize = settings.threads, settings.normalize
        self.device, self.precision = settings.device, settings.precision
        self.max_length = tokens.max_length
        self._token_budget = settings.token_budget or (CPU_TOKENS if self.device == "cpu" else GPU_TOKENS)
        self.dim = self._vectors(tokens.tokenize(["a"]), np.zeros(1, np.int64)).shape[1]

    @classmethod
    def load(cls, path: Path, settings: EncoderSettings) -> TransformerEncoder:
        """Load from a folder.

        Raises:
            ConfigError: the folder is no usable model, or a setting does not fit it.
        """
        folder = read_folder(path)
        set_tokenizer_threads(settings.threads)
        settings = _resolved(settings, folder)
        tokenizer = load_tokenizer(folder, settings)
        model, pooler = load_model(folder, settings, DTYPES[settings.precision])
        max_length = resolve_max_length(folder, settings, model, tokenizer)
        tokens = Tokens(tokenizer, max_length, settings.prompt, lower_case=folder.lower_case)
        if settings.pooling == "auto":
            head = sentence_head(folder.modules, tokens.prompt_length(), settings.device)
        else:
            head = raw_head(settings.pooling)
        if not pooler:
            model.pooler = None
        native = settings.precision == "fp32" or cpu_has_bf16()
        if settings.device == "cpu" and native and can_pack(model):
            pack_linears(model)
        first_layer = settings.pooling == "first-last-mean"
        return cls(model.to(settings.device), tokens, head, settings, first_layer=first_layer)

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
            vectors_BD = self._head(self._states(ids_BL, mask_BL))
        vectors: npt.NDArray[np.float32] = vectors_BD.cpu().numpy()
        return vectors

    def _states(self, ids_BL: Tensor, mask_BL: Tensor) -> TokenStates:
        extra: dict[str, Any] = {"output_hidden_states": True} if self._first_layer else {}
        output = self._model(input_ids=ids_BL, attention_mask=mask_BL, **extra)
        pooled = getattr(output, "pooler_output", None)
        hidden = getattr(output, "hidden_states", None)
        return TokenStates(
            last=output.last_hidden_state.float(),
            mask=mask_BL.float(),
            first=hidden[1].float() if hidden else None,  # hidden[0] is the embedding, before any layer
            pooled=None if pooled is None else pooled.float(),
        )


def _resolved(settings: EncoderSettings, folder: ModelFolder) -> EncoderSettings:
    """The settings with every `auto` and every default of the model filled in."""
    device = resolve_device(settings.device)
    pooling = settings.pooling
    if pooling == "auto" and not folder.modules:
        pooling = "last-mean"
    return replace(
        settings,
        device=device,
        precision=resolve_precision(settings.precision, device),
        pooling=pooling,
        prompt=settings.prompt or folder.prompt,
    )
