"""What an evaluation leaves: `evaluation.json`, examples of errors, and lines to paste for the threshold it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kxbatch.data.storage import Folder
from kxbatch.engine.graph_answers import Method, System
from kxbatch.engine.graph_evaluation import Grid, Result, Thresholds, best, calibrate, evaluate, told
from kxbatch.engine.graph_judging import OUTCOMES
from kxbatch.engine.questions import Questions
from kxbatch.models.graph.graph import Fact
from kxbatch.models.retrieval.abstention import RULE, Abstention

FILE = "evaluation.json"
MOST_EXAMPLES = 12  # of one kind
MOST_POINTS = 200  # of a curve


@dataclass(frozen=True)
class Calibration:
    """The threshold to use.

    Attributes:
        source: the file of questions it was chosen on.
        system: name of the graph with its model.
        method: the search: of those tried, the one with the largest F1 there.
        chosen: the threshold, and what it came to there.
    """

    source: str
    system: str
    method: Method
    chosen: Abstention

    @classmethod
    def of(cls, source: str, thresholds: Thresholds) -> Calibration:
        """The best of some searches."""
        (system, method), chosen = max(thresholds.items(), key=lambda item: item[1].f1)
        return cls(source, system, method, chosen)

    @property
    def toml(self) -> str:
        """Lines for a stage of kind `retrieve`."""
        settings, chosen = self.method.settings, self.chosen
        lines = [
            f"# Threshold with {RULE};",
            f"# on {self.source}, {chosen.questions} questions: "
            f"P {chosen.precision:.4f}, R {chosen.recall:.4f}, F1 {chosen.f1:.4f}",
            f"beam = {settings.beam}",
            f'scoring = "{settings.scoring}"',
            f'look_ahead = "{settings.look_ahead}"',
        ]
        more = ("linked", "overlap", "length_power")
        lines += [f"{name} = {value!r}" for name in more if (value := getattr(settings, name))]
        if chosen.threshold is None:
            return "\n".join([*lines, "# no threshold: it is best to answer every question"])
        answered = f"{chosen.coverage:.1%} of the questions get an answer"
        return "\n".join([*lines, f"threshold = {chosen.threshold!r}  # {answered}"])

    def to_json(self) -> dict[str, Any]:
        """For `evaluation.json`."""
        return {
            "questions": self.source,
            "system": self.system,
            "method": self.method.words,
            **told(self.chosen),
            "toml": self.toml,
        }


@dataclass(frozen=True)
class Example:
    """A question that was not answered rightly.

    Attributes:
        question: as it was asked.
        gold: the fact it asks for.
        answer: the fact it got, or the sequence that is no key; None for nothing.
        score: log p of the answer; None where there is none.
    """

    question: str
    gold: str
    answer: str | None
    score: float | None


@dataclass(frozen=True)
class Asked:
    """Questions.

    Attributes:
        source: where they come from, for people.
        questions: with what they ask for.
    """

    source: str
    questions: Questions


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything that was found out.

    Attributes:
        source: where the questions come from, for people.
        questions: with what they ask for.
        systems: graphs with their models.
        results: of all ways to answer.
        calibration: the threshold that other questions gave; None where none were given.
    """

    source: str
    questions: Questions
    systems: Sequence[System]
    results: Sequence[Result]
    calibration: Calibration | None = None

    @property
    def best(self) -> Result:
        """The result to look at closely."""
        return best(self.results)

    def errors(self) -> dict[str, list[Example]]:
        """Examples of the errors of the best result, by outcome, spread evenly over the questions."""
        result, found = self.best, {}
        for number, outcome in enumerate(OUTCOMES[1:], 1):
            places = np.flatnonzero(result.judged.outcomes == number)
            some = np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST_EXAMPLES)).astype(np.int64))
            found[outcome] = [self._example(result, question) for question in places[some].tolist()]
        return {outcome: examples for outcome, examples in found.items() if examples}

    def to_json(self) -> dict[str, Any]:
        """For `evaluation.json`."""
        return {
            "questions": {"path": self.source, "count": len(self.questions)},
            "systems": [
                {"name": one.name, "order": one.graph.order, "keys": len(one.graph), "graph_digest": one.graph.digest}
                for one in self.systems
            ],
            "results": [{"name": one.name, **one.to_json(), "curve": _points(one)} for one in self.results],
            "best": self.best.name,
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "errors": {outcome: [vars(one) for one in examples] for outcome, examples in self.errors().items()},
        }

    def _example(self, result: Result, question: int) -> Example:
        asked = self.questions
        gold = Fact(
            asked.subjects[question],
            asked.predicates[question],
            asked.meanings[question] or "",
            tuple(asked.objects[question]),
        )
        place = result.found.first(question)
        if place is None:
            return Example(asked.texts[question], spelt(gold), None, None)
        fact, score = result.found.facts[place], float(result.found.scores[place])
        answer = result.found.invented[place] if fact is None else spelt(fact)
        return Example(asked.texts[question], spelt(gold), answer, None if np.isnan(score) else score)


def run(
    systems: Sequence[System],
    asked: Asked,
    grid: Grid,
    threshold: float | None = None,
    dev: Asked | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Evaluation:
    """Evaluates, with thresholds chosen on other questions where there are any.

    Args:
        systems: graphs with their models.
        asked: the questions.
        grid: ways to answer them.
        threshold: score below which a question would get no answer.
        dev: questions to choose a threshold on, for each way to search, instead.
        progress: called with each result.
    """
    if dev is None:
        return Evaluation(
            asked.source, asked.questions, systems, evaluate(systems, asked.questions, grid, threshold, progress)
        )
    searches = replace(grid, free=False, linking=False)
    thresholds = calibrate(evaluate(systems, dev.questions, searches, progress=progress))
    results = evaluate(systems, asked.questions, grid, thresholds, progress)
    return Evaluation(asked.source, asked.questions, systems, results, Calibration.of(dev.source, thresholds))


def spelt(fact: Fact) -> str:
    """A fact in one line."""
    subject = f"{fact.subject}（{fact.meaning}）" if fact.meaning else fact.subject
    return f"{subject} · {fact.predicate} → {', '.join(fact.objects)}"


def write(evaluation: Evaluation, output: Path) -> Path:
    """Writes `evaluation.json`; the file appears whole or not at all."""
    text = json.dumps(evaluation.to_json(), ensure_ascii=False, indent=2, allow_nan=False) + "\n"
    Folder(str(output)).publish_bytes(FILE, text.encode("utf-8", "replace"))
    return output / FILE


def _points(result: Result) -> list[dict[str, float]] | None:
    """The curve of a result, at most `MOST_POINTS` of it."""
    curve = result.curve
    if curve is None:
        return None
    places = np.unique(np.linspace(0, max(len(curve.scores) - 1, 0), MOST_POINTS).astype(np.int64))[: len(curve.scores)]
    columns = (curve.scores, curve.answered / curve.questions, curve.right / curve.answered)
    return [
        {"score": score, "coverage": coverage, "precision": precision}
        for score, coverage, precision in zip(*(column[places].tolist() for column in columns), strict=True)
    ]
