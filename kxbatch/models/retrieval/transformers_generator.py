"""Decoding with any Hugging Face model that generates: encoder-decoders (T5, BART), and decoders alone (GPT-2, Llama).

The model computes the logits of its whole vocabulary at every step, so what a search saves here is what comes after.

Letters: Q questions, L source tokens, R rows, V vocabulary.
"""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from kxbatch.errors import ConfigError
from kxbatch.kernels.trie import Keys
from kxbatch.models.retrieval.sources import padded
from kxbatch.models.retrieval.tied_head import CHUNK

Numbers = NDArray[np.int64]


class TransformersGenerator:
    """A model of transformers; it computes where, and in which precision, its weights are."""

    def __init__(self, model: PreTrainedModel) -> None:
        if not model.can_generate():
            raise ConfigError(
                f"{type(model).__name__} cannot generate: load it with AutoModelForSeq2SeqLM or AutoModelForCausalLM"
            )
        self._model = model.eval()
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])

    def begin(self, sources: Keys) -> TransformersDecoding:
        """Reads Q sources, none of them empty."""
        return (_EncoderDecoder if self._model.config.is_encoder_decoder else _Decoder)(self._model, sources)


class TransformersDecoding:
    """Some questions under way; see `Decoding`. What a step feeds to the model is up to the two kinds."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._takes = inspect.signature(model.forward).parameters
        self._logits: Tensor
        self._rows = 0

    def logits(self, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
        """Of pairs."""
        found: NDArray[np.float32] = self._logits[self._tensor(rows), self._tensor(tokens)].float().cpu().numpy()
        return found

    def all_logits(self) -> Tensor:
        """Of all tokens."""
        return self._logits.float().cpu()

    def log_normalizers(self, rows: Numbers) -> NDArray[np.float64]:
        """Of some rows."""
        size = max(1, CHUNK // self._logits.shape[1])
        parts = [self._logits[part].float().logsumexp(dim=1) for part in torch.split(self._tensor(rows), size)]
        found: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
        return found

    @torch.inference_mode()
    def advance(self, parents: Numbers, tokens: Numbers) -> None:
        """One token further."""
        flat = parents.ravel()
        if not np.array_equal(flat, np.arange(self._rows)):
            self._select(self._tensor(flat))
        self._feed(self._tensor(tokens.reshape(-1, 1)))

    def _select(self, parents: Tensor) -> None:
        raise NotImplementedError

    def _feed(self, tokens_R1: Tensor) -> None:
        raise NotImplementedError

    def _keep(self, logits_RLV: Tensor) -> None:
        self._logits = logits_RLV[:, -1]
        self._rows = len(self._logits)

    def _tensor(self, numbers: Numbers) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(numbers)).to(self._model.device)


class _EncoderDecoder(TransformersDecoding):
    """Sources are padded on the right; the decoder begins with the token that the model's configuration names."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, sources: Keys) -> None:
        super().__init__(model)
        ids_QL, mask_QL = (self._tensor(x) for x in padded(sources, left=False))
        self._source: Tensor = model.get_encoder()(input_ids=ids_QL, attention_mask=mask_QL)[0]
        self._mask = mask_QL
        self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self._feed(torch.full((len(sources), 1), _first_token(model), device=model.device))

    def _select(self, parents: Tensor) -> None:
        self._source, self._mask = self._source[parents], self._mask[parents]
        self._cache.batch_select_indices(parents)

    def _feed(self, tokens_R1: Tensor) -> None:
        out = self._model(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._source),
            attention_mask=self._mask,
            decoder_input_ids=tokens_R1,
            past_key_values=self._cache,
            use_cache=True,
        )
        self._keep(out.logits)


class _Decoder(TransformersDecoding):
    """Sources are padded on the left, and positions count from the first token that is none."""

    @torch.inference_mode()
    def __init__(self, model: PreTrainedModel, sources: Keys) -> None:
        super().__init__(model)
        ids_QL, mask_QL = (self._tensor(x) for x in padded(sources, left=True))
        self._mask = mask_QL
        self._cache = DynamicCache(config=model.config)
        self._run(ids_QL, (mask_QL.cumsum(dim=1) - 1).clamp(min=0))

    def _select(self, parents: Tensor) -> None:
        self._mask = self._mask[parents]
        self._cache.batch_select_indices(parents)

    def _feed(self, tokens_R1: Tensor) -> None:
        self._mask = torch.cat([self._mask, torch.ones_like(tokens_R1)], dim=1)
        self._run(tokens_R1, self._mask.sum(dim=1, keepdim=True) - 1)

    def _run(self, ids: Tensor, positions: Tensor) -> None:
        more: dict[str, Any] = {"position_ids": positions, "logits_to_keep": 1}
        out = self._model(
            input_ids=ids,
            attention_mask=self._mask,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in more.items() if name in self._takes},
        )
        self._keep(out.logits)


def _first_token(model: PreTrainedModel) -> int:
    """What the decoder is given before it has said anything."""
    config = model.config
    for token in (getattr(config, "decoder_start_token_id", None), getattr(config, "bos_token_id", None)):
        if token is not None:
            return int(token)
    raise ConfigError(
        f"the configuration of {type(model).__name__} lacks decoder_start_token_id: set it to the token "
        "that targets began with in training, for T5 that is the token of padding"
    )
