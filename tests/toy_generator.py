"""A generator without a network: logits are hashes of everything said so far, so that every question is a model of its own."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kxbatch.kernels.trie import Keys

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]


def mix(x: Words) -> Words:
    """SplitMix64."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def said(state: Words, tokens: Numbers) -> Words:
    return mix(state ^ (tokens.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)))


class ToyDecoding:
    def __init__(self, states: Words, vocabulary: int, scale: float) -> None:
        self.states, self._vocabulary, self._scale = states, vocabulary, scale
        self.steps = 0

    def logits(self, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
        assert (np.diff(rows) >= 0).all()
        uniform = (mix(said(self.states[rows], tokens)) >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
        return np.float32(self._scale) * uniform

    def all_logits(self) -> torch.Tensor:
        rows = np.repeat(np.arange(len(self.states)), self._vocabulary)
        tokens = np.tile(np.arange(self._vocabulary), len(self.states))
        return torch.from_numpy(self.logits(rows, tokens).reshape(len(self.states), -1))

    def log_normalizers(self, rows: Numbers) -> NDArray[np.float64]:
        return self.all_logits()[rows].double().logsumexp(dim=1).numpy()

    def advance(self, parents: Numbers, tokens: Numbers) -> None:
        self.states = said(self.states[parents.ravel()], tokens.ravel())
        self.steps += 1


class ToyGenerator:
    """Logits from 0 to `scale`; 0 is uniform."""

    def __init__(self, vocabulary: int, scale: float = 4.0) -> None:
        self.vocabulary, self._scale = vocabulary, scale

    def begin(self, sources: Keys) -> ToyDecoding:
        states = np.zeros(len(sources), np.uint64)
        for i in range(len(sources)):
            for token in sources[i]:
                states[i : i + 1] = said(states[i : i + 1], np.array([token]))
        return ToyDecoding(states, self.vocabulary, self._scale)
