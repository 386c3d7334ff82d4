"""Decoding with a prefix-LM of GAU layers: sources see themselves, targets see sources and what was said before.

Dong et al., UniLM (2019), "sequence-to-sequence" mask. One encoder reads the source and goes on with the target behind it, at
the positions that follow; the state of the last token said, at first the separator of the source, gives the next logits.

Letters: Q questions, W hypotheses of each, R hypotheses of all, L source tokens, K tokens of a window, D width of the stream, V
vocabulary.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kxbatch.errors import ConfigError
from kxbatch.kernels.trie import Keys
from kxbatch.models.attention import Frame
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.normalizers import row_factor
from kxbatch.models.norms import normalize
from kxbatch.models.retrieval.gau_cache import LayerCache
from kxbatch.models.retrieval.prefix_lm import windows
from kxbatch.models.retrieval.sources import padded
from kxbatch.models.retrieval.tied_head import log_normalizers, logits_at
from kxbatch.models.rope import rope_table
from kxbatch.models.text_encoder import GauLayer, TextEncoder

Numbers = NDArray[np.int64]


class PrefixLmGenerator:
    """A language model that was trained with `Mask.prefix`; it computes where, and in which precision, its weights are."""

    def __init__(self, model: MaskedLm) -> None:
        config = model.encoder.config
        if config.block != "gau":
            raise ConfigError(f"block = {config.block!r}: only block = 'gau' can generate; train one with GAU layers")
        self._model = model.eval()
        self.vocabulary = config.vocabulary

    def begin(self, sources: Keys) -> PrefixLmDecoding:
        """Reads Q sources, none of them empty."""
        return PrefixLmDecoding(self._model.encoder, sources)


class PrefixLmDecoding:
    """Some questions under way; see `Decoding`."""

    @torch.inference_mode()
    def __init__(self, encoder: TextEncoder, sources: Keys) -> None:
        self._encoder, self._width, self._said = encoder, 1, 0
        weight = encoder.embedding.weight
        ids_QL, there_QL = (torch.from_numpy(x).to(weight.device) for x in padded(sources, left=False))
        self._lengths_Q = torch.from_numpy(sources.lengths).to(weight.device)
        self._rope = rope_table(0, encoder.config.query_width, encoder.config.rope_base, weight)
        frame = Frame.of(encoder.config, Mask.padding(there_QL.bool()), weight)
        assert frame.bias is not None  # of a mask of padding
        self._bias_Q1L = frame.bias
        self._layers = [layer for layer in encoder.layers if isinstance(layer, GauLayer)]
        self._caches: list[LayerCache] = []
        x_QLD = normalize(encoder.config.norm_kind, encoder.embed_tokens(ids_QL))
        for layer in self._layers:
            x_QLD = layer.join(x_QLD, partial(self._read, layer), frame)
        self._recent_RK = windows(ids_QL, self._lengths_Q, encoder.window)
        last_Q = torch.arange(len(sources), device=weight.device), self._lengths_Q - 1
        self._states = self._final(x_QLD[last_Q])

    def logits(self, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
        """Of pairs."""
        with torch.inference_mode():
            return logits_at(self._states, self._encoder.embedding.weight, rows, tokens)

    def all_logits(self) -> Tensor:
        """Of all tokens."""
        with torch.inference_mode():
            logits: Tensor = self._encoder.embedding(self._states, logits=True)
            return logits.float().cpu()

    def log_normalizers(self, rows: Numbers) -> NDArray[np.float64]:
        """Of some rows."""
        with torch.inference_mode():
            states = self._states.index_select(0, torch.from_numpy(rows).to(self._states.device))
            return log_normalizers(states, self._encoder.embedding.weight)

    @torch.inference_mode()
    def advance(self, parents: Numbers, tokens: Numbers) -> None:
        """One token further."""
        self._select(parents)
        self._said, self._width = self._said + 1, parents.shape[1]
        frame = self._frame()
        ids_QW = torch.from_numpy(np.ascontiguousarray(tokens)).to(self._states.device)
        recent_RK = self._recent_RK[torch.from_numpy(parents.ravel()).to(ids_QW.device)]
        self._recent_RK = torch.cat([recent_RK[:, 1:], ids_QW.flatten().unsqueeze(1)], dim=1)
        x_RD = normalize(self._encoder.config.norm_kind, self._encoder.embed_last(self._recent_RK))
        x_QWD = x_RD.view(*ids_QW.shape, -1)
        for layer, cache in zip(self._layers, self._caches, strict=True):
            x_QWD = layer.join(x_QWD, partial(self._go_on, layer, cache), frame)
        self._states = self._final(x_QWD.flatten(0, 1))

    def _read(self, layer: GauLayer, x_QLD: Tensor, frame: Frame) -> Tensor:
        def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            cache, mixed = LayerCache.of_source(frame.normalizer, q, k, v, frame.bias)
            self._caches.append(cache)
            return mixed

        return layer.gau.around(x_QLD, frame, mix)

    def _go_on(self, layer: GauLayer, cache: LayerCache, x_QWD: Tensor, frame: Frame) -> Tensor:
        return layer.gau.around(x_QWD, frame, partial(cache.mix, bias_Q1L=self._bias_Q1L))

    def _final(self, x: Tensor) -> Tensor:
        config = self._encoder.config
        return normalize(config.norm_kind, x) if config.norm == "pre" else x

    def _frame(self) -> Frame:
        """Positions and factors of the tokens said last: the same for all hypotheses of a question."""
        config, count_Q = self._encoder.config, self._lengths_Q + self._said
        if (end := int(count_Q.max())) > self._rope.shape[1]:
            self._rope = rope_table(2 * end, config.query_width, config.rope_base, self._states)
        factor_Q = row_factor(config.normalizer, count_Q.float(), config.base_length) * config.query_width**-0.5
        rope = self._rope[:, count_Q - 1].unsqueeze(2)
        return Frame(rope, factor_Q[:, None, None].to(self._states.dtype), None, config.normalizer)

    def _select(self, parents: Numbers) -> None:
        """Keeps what the new rows go on from; copies only where that is not what is there already."""
        questions = parents[:, 0] // self._width
        if not np.array_equal(questions, np.arange(len(self._lengths_Q))):
            kept = torch.from_numpy(questions).to(self._states.device)
            self._lengths_Q, self._bias_Q1L = self._lengths_Q[kept], self._bias_Q1L[kept]
            for cache in self._caches:
                cache.select_questions(kept)
        if parents.size == len(self._states) and (parents.ravel() == np.arange(parents.size)).all():
            return
        rows = torch.from_numpy(np.ascontiguousarray(parents)).to(self._states.device)
        for cache in self._caches:
            cache.select_rows(rows)
