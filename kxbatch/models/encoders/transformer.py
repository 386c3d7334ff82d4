"""Encoders made of a Hugging Face transformer, raw or in a sentence-transformers folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from kxbatch.models.device import DTYPES, cpu_has_bf16, resolve_device, resolve_precision
from kxbatch.models.encoders.folders import ModelFolder, read_folder
from kxbatch.models.encoders.linear import can_pack, pack_linears
from kxbatch.models.encoders.loading import load_model, load_tokenizer, resolve_max_length
from kxbatch.models.encoders.pooling import Head, TokenStates, raw_head
from kxbatch.models.encoders.protocol import EncoderSettings
from kxbatch.models.encoders.sentence_modules import sentence_head
from kxbatch.models.encoders.token_encoder import TokenEncoder
from kxbatch.models.encoders.tokens import Tokens, set_tokenizer_threads


class TransformerEncoder(TokenEncoder):
    """A transformer with a head that makes one vector of its token vectors."""

    def __init__(self, model: Any, tokens: Tokens, head: Head, settings: EncoderSettings, *, first_layer: bool) -> None:
        super().__init__(tokens, settings)
        self._model, self._head, self._first_layer = model, head, first_layer
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

    def _pooled(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        return self._head(self._states(ids_BL, mask_BL))

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
