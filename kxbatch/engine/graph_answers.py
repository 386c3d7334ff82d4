"""Three ways to answer questions with a graph, in one form: search under the trie, free decoding, and linking alone.

Letters: N questions, H answers of all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import ConfigError
from kxbatch.kernels.trie import Keys, find
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.graph.graph import Fact, Graph
from kxbatch.models.retrieval.baseline import link
from kxbatch.models.retrieval.free_search import free_search
from kxbatch.models.retrieval.generator import Generator
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import SearchSettings

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
Kind = Literal["search", "free", "linking"]
LINKED_TOGETHER = 1024  # questions
LONGEST = 128  # tokens that are said without a trie; what is not at its end by then is no key


@dataclass(frozen=True)
class System:
    """A graph and, but for linking, a model that writes its keys.

    Attributes:
        name: tells it from others that are compared with it.
        graph: where answers come from.
        generator: of the graph's tokenizer and order.
        max_question: tokens of the longest question the generator reads; longer ones get no answer.
    """

    name: str
    graph: Graph
    generator: Generator | None = None
    max_question: int | None = None


@dataclass(frozen=True)
class Method:
    """How questions are answered; `settings` says how many answers there are for linking, too."""

    kind: Kind
    settings: SearchSettings

    @property
    def words(self) -> str:
        """For people."""
        if self.kind == "linking":
            return "no model: linking"
        beam = f"beam {self.settings.beam}"
        if self.kind == "free":
            return f"no trie, {beam}"
        ahead = "no look-ahead" if self.settings.look_ahead == "none" else f"look-ahead {self.settings.look_ahead}"
        words = [beam, ahead, self.settings.scoring]
        words += [f"{self.settings.linked} linked"] if self.settings.linked else []
        words += [f"overlap {self.settings.overlap:g}"] if self.settings.overlap else []
        return ", ".join(words)


@dataclass(frozen=True, eq=False)
class Found:
    """Answers to N questions, best first.

    Attributes:
        offsets: int64 [N + 1]; question q has the answers `offsets[q]` to `offsets[q + 1]`.
        facts: H; None for a sequence that is no key.
        invented: H, the text of such a sequence, "" for keys.
        scores: float64 [H], log p; NaN where there is no model.
        seconds: that answering took, facts looked up not included.
    """

    offsets: Numbers
    facts: list[Fact | None]
    invented: list[str]
    scores: Floats
    seconds: float

    def first(self, question: int) -> int | None:
        """Place of the best answer to a question."""
        begin, end = self.offsets[question : question + 2]
        return int(begin) if begin < end else None


def answer(system: System, method: Method, questions: Sequence[str]) -> Found:
    """Answers questions in one way. Of a key that is spelled in several ways, the first fact is the answer.

    Raises:
        ConfigError: the method needs a model, and the system has none.
    """
    tokens = system.graph.questions(questions)
    if method.kind == "linking":
        return _linked(system.graph, tokens, method.settings.answers)
    if system.generator is None:
        raise ConfigError(f"{method.words}: graph {system.name} has no model")
    short = np.arange(len(tokens))
    if system.max_question is not None:
        short = np.flatnonzero(tokens.lengths <= system.max_question)
    run = _searched if method.kind == "search" else _written
    found = run(system.graph, system.generator, tokens.take(short), method.settings)
    counts = np.zeros(len(tokens), np.int64)
    counts[short] = np.diff(found.offsets)
    return replace(found, offsets=starts_of(counts))


def _linked(graph: Graph, questions: Keys, answers: int) -> Found:
    begun = time.perf_counter()
    batches = [
        np.arange(at, min(at + LINKED_TOGETHER, len(questions))) for at in range(0, len(questions), LINKED_TOGETHER)
    ]
    parts = [link(graph.trie, questions.take(batch), graph.tokenizer.separator, answers) for batch in batches]
    seconds = time.perf_counter() - begun
    numbers = np.concatenate([np.empty(0, np.int64), *(part.numbers for part in parts)])
    counts = np.concatenate([np.empty(0, np.int64), *(np.diff(part.offsets) for part in parts)])
    return _told(graph, starts_of(counts), numbers, np.full(len(numbers), np.nan), seconds)


def _searched(graph: Graph, generator: Generator, questions: Keys, settings: SearchSettings) -> Found:
    begun = time.perf_counter()
    found = search(graph.trie, generator, questions, graph.tokenizer.separator, graph.order, settings)
    seconds = time.perf_counter() - begun
    return _told(graph, found.offsets, found.numbers, found.scores, seconds)


def _written(graph: Graph, generator: Generator, questions: Keys, settings: SearchSettings) -> Found:
    """What the model says by itself; a sequence that is no key is told as it is."""
    separator = graph.tokenizer.separator
    begun = time.perf_counter()
    said = free_search(generator, questions, separator, settings, LONGEST)
    seconds = time.perf_counter() - begun
    sequences = said.sequences
    lengths = sequences.lengths - said.ended  # without the last separator
    keys = Keys(sequences.tokens[_of_keys(sequences, lengths)], starts_of(lengths))
    numbers = np.where(said.ended, find(graph.trie, keys), -1)
    found = _told(graph, said.offsets, numbers, said.scores, seconds)
    made_up = {place: _spelt(graph, keys[place].tolist()) for place in np.flatnonzero(numbers < 0).tolist()}
    return replace(found, invented=[made_up.get(place, "") for place in range(len(numbers))])


def _of_keys(sequences: Keys, lengths: Numbers) -> Numbers:
    """Places of the first tokens of sequences, so many of each."""
    begun = np.repeat(sequences.starts[:-1] - starts_of(lengths)[:-1], lengths)
    return np.asarray(begun + np.arange(len(begun)), dtype=np.int64)


def _spelt(graph: Graph, tokens: list[int]) -> str:
    """The parts of a sequence as a text."""
    ends = [place for place, token in enumerate(tokens) if token == graph.tokenizer.separator]
    parts = [tokens[a + 1 : b] for a, b in zip([-1, *ends], [*ends, len(tokens)], strict=True)]
    return " · ".join(graph.tokenizer.decode(part) for part in parts if part)


def _told(graph: Graph, offsets: Numbers, numbers: Numbers, scores: Floats, seconds: float) -> Found:
    """Keys, or -1 for what is none, with their facts."""
    facts: list[Fact | None] = [None] * len(numbers)
    keys = np.flatnonzero(numbers >= 0)
    for place, spellings in zip(keys.tolist(), graph.facts(numbers[keys]), strict=True):
        facts[place] = spellings[0]
    return Found(offsets, facts, [""] * len(numbers), scores, seconds)
