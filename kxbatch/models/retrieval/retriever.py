"""Questions in, facts of a graph out: a graph, a generator and a search put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kxbatch.errors import DataError
from kxbatch.kernels.trie import Keys
from kxbatch.models.device import run_batches
from kxbatch.models.graph import Graph, Order
from kxbatch.models.retrieval.generator import Generator
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import Hypotheses, SearchSettings

BELOW, NOTHING = "below-threshold", "no-key"


@dataclass(frozen=True)
class Answer:
    """A fact of the graph, and how the model came to it.

    Attributes:
        subject: as the graph spells it.
        predicate: as the graph spells it.
        meaning: what tells the subject from others of its name; may be empty.
        objects: all the graph has for these three.
        score: log p of the key given the question, nats.
        normalized_score: score / tokens^length_power, what is shared with the question added first: answers are ranked by it.
        part_scores: log p of subject, predicate and meaning, each given those written before it; they add up to `score`.
    """

    subject: str
    predicate: str
    meaning: str
    objects: tuple[str, ...]
    score: float
    normalized_score: float
    part_scores: tuple[float, float, float]


@dataclass(frozen=True)
class Answered:
    """What became of a question.

    Attributes:
        answers: best first; several of one score are spellings of one key.
        reason: why there is none: `below-threshold`, or `no-key` where the graph is empty; None where there are some.
        best: score of the best key, whether it was good enough or not; None where there is no key.
    """

    answers: tuple[Answer, ...]
    reason: str | None
    best: float | None


@dataclass(frozen=True)
class Retriever:
    """Answers questions.

    Attributes:
        graph: where facts come from.
        generator: what scores keys; of the graph's tokenizer and order.
        settings: of the search.
        max_question: tokens of the longest question that the generator reads.
        threshold: a question whose best key has a lower `score` gets no answer; None for all get one.
        threads: batches at once, on a CPU.
        device: where the generator is.
    """

    graph: Graph
    generator: Generator
    settings: SearchSettings
    max_question: int
    threshold: float | None = None
    threads: int = 1
    device: str = "cpu"

    def answer(self, questions: Sequence[str]) -> list[Answered]:
        """Answers of each question; what is asked beside it changes scores by rounding at most.

        Raises:
            DataError: a question has more than `max_question` tokens.
        """
        tokens = self.graph.questions(questions)
        if len(tokens) and (longest := int(tokens.lengths.max())) > self.max_question:
            raise DataError(
                f"a question of {longest} tokens; the model reads {self.max_question}, and an answer to a part of a question would "
                "be an answer to another one: shorten it"
            )
        return self.answer_tokens(tokens)

    def answer_tokens(self, questions: Keys) -> list[Answered]:
        """The same for questions in tokens, none longer than `max_question`.

        Questions of like length go through the generator together; each batch has a thread of its own.
        """
        order, size = np.argsort(questions.lengths, kind="stable"), self.settings.batch
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        found: list[Answered | None] = [None] * len(questions)

        def work(i: int) -> None:
            for row, answered in zip(batches[i], self._answers(questions.take(batches[i])), strict=True):
                found[row] = answered

        run_batches(work, len(batches), self.threads, self.device)
        return [one for one in found if one is not None]

    def _answers(self, questions: Keys) -> list[Answered]:
        graph = self.graph
        found = search(graph.trie, self.generator, questions, graph.tokenizer.separator, graph.order, self.settings)
        best = np.full(len(questions), -np.inf)
        some = np.diff(found.offsets) > 0
        best[some] = found.scores[found.offsets[:-1][some]]
        kept = some if self.threshold is None else some & (best >= self.threshold)
        return [
            self._answered(found, range(found.offsets[row], found.offsets[row + 1]))
            if kept[row]
            else Answered((), BELOW if some[row] else NOTHING, float(best[row]) if some[row] else None)
            for row in range(len(questions))
        ]

    def _answered(self, found: Hypotheses, places: range) -> Answered:
        facts = self.graph.facts(found.numbers[places.start : places.stop])
        answers = tuple(
            Answer(
                fact.subject,
                fact.predicate,
                fact.meaning,
                fact.objects,
                float(found.scores[at]),
                float(found.normalized[at]),
                _by_part(found.part_scores[at], self.graph.order),
            )
            for at, spellings in zip(places, facts, strict=True)
            for fact in spellings
        )
        return Answered(answers, None, answers[0].score)


def _by_part(scores: npt.NDArray[np.float64], order: Order) -> tuple[float, float, float]:
    """Of subject, predicate and meaning, from those of the parts as they are written."""
    found = dict(zip(order, scores.tolist(), strict=True))
    return found["s"], found["p"], found["m"]
