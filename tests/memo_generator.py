"""A generator that knows by heart what to say to each question: a token that goes on with it gets `sure`, all others 0."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from kxbatch.kernels.trie import Keys

Numbers = NDArray[np.int64]
Row = tuple[int, ...]


class MemoDecoding:
    def __init__(self, targets: list[Row], vocabulary: int, sure: list[float]) -> None:
        self._targets, self._sure, self._vocabulary = targets, sure, vocabulary
        self._said: list[Row] = [()] * len(targets)

    def logits(self, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
        dense = self.all_logits().numpy()
        return dense[rows, tokens]

    def all_logits(self) -> torch.Tensor:
        dense = torch.zeros(len(self._said), self._vocabulary)
        for row, (said, target) in enumerate(zip(self._said, self._targets, strict=True)):
            if target[: len(said)] == said and len(said) < len(target):
                dense[row, target[len(said)]] = self._sure[row]
        return dense

    def log_normalizers(self, rows: Numbers) -> NDArray[np.float64]:
        normalizers: NDArray[np.float64] = self.all_logits()[rows].double().logsumexp(dim=1).numpy()
        return normalizers

    def advance(self, parents: Numbers, tokens: Numbers) -> None:
        flat = parents.ravel().tolist()
        self._said = [(*self._said[row], token) for row, token in zip(flat, tokens.ravel().tolist(), strict=True)]
        self._targets, self._sure = [self._targets[row] for row in flat], [self._sure[row] for row in flat]


class MemoGenerator:
    """Says the target of each question (tokens without separator), surer of some than of others."""

    def __init__(self, vocabulary: int, targets: Mapping[Row, tuple[Row, float]]) -> None:
        self.vocabulary, self._targets = vocabulary, targets

    def begin(self, sources: Keys) -> MemoDecoding:
        found = [self._targets[tuple(sources[i].tolist())[:-1]] for i in range(len(sources))]
        return MemoDecoding([target for target, _ in found], self.vocabulary, [sure for _, sure in found])
