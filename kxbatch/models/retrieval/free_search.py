"""Beam search without a trie: what a model says when nothing holds it, for comparison.

Letters: Q questions, H hypotheses of all of them, T tokens said, K candidates of one, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.beam import top_k
from kxbatch.kernels.trie import Keys
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.retrieval.generator import Decoding, Generator, go_on
from kxbatch.models.retrieval.settings import PARTS, SearchSettings
from kxbatch.models.retrieval.sources import with_separator

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FreeHypotheses:
    """What was said to Q questions, best first; H in all.

    Attributes:
        offsets: int64 [Q + 1].
        sequences: H token sequences, separators included.
        scores: float64 [H], log-probabilities.
        normalized: float64 [H], score / tokens^power.
        ended: bool [H], whether the third separator was said, and not the limit reached.
    """

    offsets: Numbers
    sequences: Keys
    scores: NDArray[np.float64]
    normalized: NDArray[np.float64]
    ended: NDArray[np.bool_]


def free_search(
    generator: Generator, questions: Keys, separator: int, settings: SearchSettings, longest: int = 64
) -> FreeHypotheses:
    """The most probable sequences up to the third separator.

    Args:
        generator: the model.
        questions: Q token sequences without separator.
        separator: the token.
        settings: `beam`, `answers`, `length_power` and `batch` count here.
        longest: tokens after which an unfinished sequence is cut.
    """
    done = [_Said.start(np.arange(0), longest)]
    by_length = np.argsort(questions.lengths, kind="stable")
    for at in range(0, len(questions), settings.batch):
        numbers = by_length[at : at + settings.batch]
        decoding = generator.begin(with_separator(questions.take(numbers), separator))
        said = _Said.start(numbers, longest)
        wanted = settings.beam if settings.length_power else settings.answers
        for length in range(longest):
            said = _step(decoding, said, length, separator, settings.beam)
            open_ = ~said.ended & (said.ranks() < wanted)
            going = np.isin(said.questions, said.questions[open_]) & (length + 1 < longest)
            done.append(said.take(~going))
            said = said.take(going)
            if not len(said.questions):
                break
            live = np.flatnonzero(~said.ended)
            said.rows[live] = go_on(decoding, said.line[live], said.rows[live], said.tokens[live, length])
    return _ranked(done, len(questions), questions.tokens.dtype, settings)


@dataclass(frozen=True, eq=False)
class _Said:
    """Hypotheses, those of a question together and best first: questions and lines of the batch, tokens [H, longest]."""

    questions: Numbers
    line: Numbers
    rows: Numbers
    tokens: Numbers
    lengths: Numbers
    parts: Numbers
    scores: NDArray[np.float64]

    @classmethod
    def start(cls, numbers: Numbers, longest: int) -> _Said:
        size = len(numbers)
        each, zero = np.arange(size), np.zeros(size, np.int64)
        return cls(numbers, each, each.copy(), np.zeros((size, longest), np.int64), zero, zero, np.zeros(size))

    @property
    def ended(self) -> NDArray[np.bool_]:
        ended: NDArray[np.bool_] = self.parts == PARTS
        return ended

    def take(self, rows: NDArray[np.bool_] | Numbers) -> _Said:
        return _Said(*(getattr(self, field.name)[rows] for field in fields(self)))

    def ranks(self) -> Numbers:
        ranks: Numbers = np.arange(len(self.line)) - np.searchsorted(self.line, self.line)
        return ranks


def _step(decoding: Decoding, said: _Said, length: int, separator: int, beam: int) -> _Said:
    """The best continuations; a finished hypothesis is its own."""
    logits = decoding.all_logits().numpy()
    k = min(beam, logits.shape[1])
    tokens_RK = top_k(logits.ravel(), np.arange(len(logits) + 1) * logits.shape[1], k)[0].reshape(-1, k)
    live = np.flatnonzero(~said.ended)
    rows = said.rows[live]
    scores_HK = np.full((len(said.line), k), -np.inf)
    scores_HK[:, 0] = said.scores
    gained = logits.ravel()[tokens_RK[rows]] - decoding.log_normalizers(rows)[:, None]
    scores_HK[live] = said.scores[live, None] + np.minimum(gained, 0.0)
    bounds = np.searchsorted(said.line, np.arange(said.line.max(initial=-1) + 2))
    picked, _ = top_k(scores_HK.ravel(), bounds * k, beam)
    picked = picked[scores_HK.ravel()[picked] > -np.inf]
    parents, choice = picked // k, picked % k
    grown, goes_on = said.take(parents), ~said.ended[parents]
    grown.scores[:] = scores_HK.ravel()[picked]
    token = tokens_RK[grown.rows[goes_on], choice[goes_on]] % logits.shape[1]
    grown.tokens[goes_on, length] = token
    grown.lengths[goes_on] += 1
    grown.parts[goes_on] += token == separator
    return grown


def _ranked(done: list[_Said], questions: int, dtype: Any, settings: SearchSettings) -> FreeHypotheses:
    """Sorts what the batches found."""
    found = _Said(*(np.concatenate([getattr(part, field.name) for part in done]) for field in fields(_Said)))
    normalized = found.scores / np.maximum(found.lengths, 1) ** settings.length_power
    order = np.lexsort((-normalized, found.questions))
    starts = np.searchsorted(found.questions[order], np.arange(questions + 1))
    order = order[np.arange(len(order)) - starts[found.questions[order]] < settings.answers]
    found, normalized = found.take(order), normalized[order]
    said = np.arange(found.tokens.shape[1]) < found.lengths[:, None]
    sequences = Keys(found.tokens[said].astype(dtype), starts_of(found.lengths))
    offsets = np.searchsorted(found.questions, np.arange(questions + 1))
    return FreeHypotheses(offsets, sequences, found.scores, normalized, found.ended)
