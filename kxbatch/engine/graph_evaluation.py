"""How well questions are answered by a graph: a grid of ways to answer them, each with the measures of KgCLUE."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from kxbatch.engine.graph_answers import Found, Method, System, answer
from kxbatch.engine.graph_judging import OUTCOMES, Judged, judge
from kxbatch.engine.questions import Questions
from kxbatch.errors import ConfigError
from kxbatch.models.retrieval.abstention import Abstention, Curve
from kxbatch.models.retrieval.metrics import hits
from kxbatch.models.retrieval.settings import Scope, Scoring, SearchSettings

Thresholds = Mapping[tuple[str, Method], Abstention]


@dataclass(frozen=True)
class Grid:
    """Which ways to answer are compared: all combinations, and two to measure them by.

    Attributes:
        beams: hypotheses kept.
        look_aheads: parts that are said with an eye on the question.
        scorings: whether probabilities are over what the trie allows.
        answers: how many are returned; with a smaller beam, as many as it holds.
        free: also decode without the trie, with each beam.
        linking: also answer without the model.
        batch: questions decoded together.
        length_power: see `SearchSettings`.
        look_ahead_limit: see `SearchSettings`.
        linked: keys found by linking that join those of the beam.
        overlaps: nats that a token shared with the question adds when answers are ranked.
    """

    beams: Sequence[int] = (1, 4)
    look_aheads: Sequence[Scope] = ("none", "predicate")
    scorings: Sequence[Scoring] = ("renormalised",)
    answers: int = 10
    free: bool = True
    linking: bool = True
    batch: int = 64
    length_power: float = 0.0
    look_ahead_limit: int = 4096
    linked: Sequence[int] = (0,)
    overlaps: Sequence[float] = (0.0,)

    def methods(self, system: System) -> Iterator[Method]:
        """Every way for one system; without a model there is only linking."""
        if self.linking:
            yield Method("linking", SearchSettings(beam=self.answers, answers=self.answers))
        if system.generator is None:
            return
        ways = itertools.product(self.beams, self.look_aheads, self.scorings, self.linked, self.overlaps)
        for beam, ahead, scoring, linked, overlap in ways:
            settings = self._settings(beam, scoring, ahead)
            yield Method("search", replace(settings, linked=linked, overlap=overlap))
        if self.free:
            for beam in self.beams:
                yield Method("free", self._settings(beam, "masked", "none"))

    def _settings(self, beam: int, scoring: Scoring, ahead: Scope) -> SearchSettings:
        answers = min(self.answers, beam)
        return SearchSettings(beam, answers, scoring, ahead, self.length_power, self.look_ahead_limit, self.batch)


@dataclass(frozen=True, eq=False)
class Result:
    """What came of one way to answer.

    Attributes:
        system: name of the graph with its model.
        method: the way.
        found: the answers.
        judged: how good they are.
        abstention: what a threshold comes to; None where there is none to try, or answers have no scores.
    """

    system: str
    method: Method
    found: Found
    judged: Judged
    abstention: Abstention | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.system}: {self.method.words}"

    @property
    def score(self) -> float:
        """(EM + F1) / 2 of the object, the mean over all questions."""
        return float(self.judged.parts["object"].score.mean())

    @property
    def curve(self) -> Curve | None:
        """Precision against coverage; None where answers have no scores."""
        scores = self.judged.scores
        return None if np.isnan(scores).any() else Curve.of(scores, self.judged.right)

    @property
    def hits(self) -> dict[int, float]:
        """Hits@n for n of 1, 3 and all the answers that were asked for, as far as there are so many."""
        most = self.method.settings.answers
        return {n: hits(self.judged.ranks, n) for n in sorted({1, 3, most}) if n <= most}

    def to_json(self) -> dict[str, Any]:
        """Its measures, without the answers."""
        settings, size = self.method.settings, len(self.judged.right)
        searched = self.method.kind == "search"
        return {
            "system": self.system,
            "method": self.method.kind,
            "beam": None if self.method.kind == "linking" else settings.beam,
            "look_ahead": settings.look_ahead if searched else None,
            "scoring": settings.scoring if searched else None,
            "linked": settings.linked if searched else None,
            "overlap": settings.overlap if searched else None,
            "questions": size,
            "measures": {
                name: {"em": float(part.exact.mean()), "f1": float(part.f1.mean())}
                for name, part in self.judged.parts.items()
            },
            "score": self.score,
            "hits": {str(n): share for n, share in self.hits.items()},
            "outcomes": dict(
                zip(OUTCOMES, np.bincount(self.judged.outcomes, minlength=len(OUTCOMES)).tolist(), strict=True)
            ),
            "seconds": self.found.seconds,
            "questions_per_second": size / self.found.seconds if self.found.seconds else None,
            "abstention": None if self.abstention is None else told(self.abstention),
        }


def told(abstention: Abstention) -> dict[str, Any]:
    """A threshold and what it comes to, for JSON."""
    derived = {name: getattr(abstention, name) for name in ("precision", "coverage", "recall", "f1")}
    return {**asdict(abstention), "abstained": abstention.questions - abstention.answered, **derived}


def evaluate(
    systems: Sequence[System],
    questions: Questions,
    grid: Grid,
    threshold: float | Thresholds | None = None,
    progress: Callable[[Result], None] | None = None,
) -> list[Result]:
    """Answers all questions in all ways.

    Args:
        systems: graphs with their models, such as one for each order of the parts.
        questions: with what they ask for.
        grid: the ways.
        threshold: score below which a question would get no answer, one for all ways or one for each; its effect is told
            apart, the measures are of all answers.
        progress: called with each result.

    Raises:
        ConfigError: two systems have one name, or there is nothing to try.
    """
    if len({system.name for system in systems}) < len(systems):
        raise ConfigError(f"systems {', '.join(system.name for system in systems)}: names that differ are wanted")
    results = []
    for system in systems:
        for method in grid.methods(system):
            answer(system, method, questions.texts[:1])  # what is compiled or paged in first takes no question's time
            found = answer(system, method, questions.texts)
            judged = judge(found, questions)
            result = Result(system.name, method, found, judged, None)
            results.append(_abstaining(result, threshold))
            if progress is not None:
                progress(results[-1])
    if not results:
        raise ConfigError("nothing to evaluate: give a model, or leave linking in")
    return results


def _abstaining(result: Result, threshold: float | Thresholds | None) -> Result:
    curve = result.curve
    if isinstance(threshold, Mapping):
        chosen = threshold.get((result.system, result.method))
        threshold = None if chosen is None else chosen.threshold
    if curve is None or threshold is None:
        return result
    return Result(result.system, result.method, result.found, result.judged, curve.at(threshold))


def calibrate(results: Sequence[Result]) -> Thresholds:
    """The best threshold of each way to search, on the questions it was tried with."""
    curves = {(one.system, one.method): one.curve for one in results if one.method.kind == "search"}
    return {key: curve.best() for key, curve in curves.items() if curve is not None}


def best(results: Sequence[Result]) -> Result:
    """The one to look at closely: of searches, else of all, the first with the largest Score."""
    searches = [result for result in results if result.method.kind == "search"]
    return max(searches or results, key=lambda result: result.score)
