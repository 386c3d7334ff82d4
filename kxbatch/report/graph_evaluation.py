"""`evaluation.html`: how well questions are answered by a graph, one file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kxbatch.data.storage import Folder
from kxbatch.engine.graph_evaluation import Result, told
from kxbatch.engine.graph_judging import OUTCOMES
from kxbatch.engine.graph_report import Evaluation
from kxbatch.models.retrieval.abstention import RULE, Curve
from kxbatch.report import graph_evaluation_figures as figures
from kxbatch.report import wording
from kxbatch.report.elements import Figure, Key, Tile
from kxbatch.report.strokes import STAGES, Stroke

PAGE = "evaluation.html"
MOST_CURVES = 4
HEADS = {  # how an outcome is told
    "wrong subject": "Wrong subject",
    "wrong predicate": "Right subject, wrong predicate",
    "wrong meaning": "Right subject and predicate, wrong meaning",
    "wrong object": "Right key, other object",
    "no key": "No key of the graph: made up",
    "nothing": "Nothing",
}


@dataclass(frozen=True)
class Outcome:
    """A kind of error of the best result.

    Attributes:
        title: for people.
        count: questions.
        share: of all questions.
        name: as `Evaluation.errors` has it.
    """

    title: str
    count: int
    share: float
    name: str


def build(evaluation: Evaluation, output: Path) -> Path:
    """Writes the page; it is replaced as a whole or not at all."""
    Folder(str(output)).publish_bytes(PAGE, render(evaluation).encode("utf-8", "replace"))
    return output / PAGE


def render(evaluation: Evaluation) -> str:
    """The page; every text in it is escaped here."""
    environment = Environment(
        loader=PackageLoader("kxbatch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = {name: getattr(wording, name) for name in ("number", "percent", "duration", "score")}
    environment.filters.update(forms, excerpt=wording.excerpt)
    return environment.get_template("graph_evaluation.html.j2").render(
        evaluation=evaluation,
        best=evaluation.best,
        name=Path(evaluation.source).name,
        rows=[(result, result.to_json()) for result in evaluation.results],
        most_hits=sorted({n for result in evaluation.results for n in result.hits}),
        invents=any(result.method.kind == "free" for result in evaluation.results),
        tiles=list(tiles(evaluation)),
        figures=list(drawn(evaluation)),
        rule=RULE,
        told=told,
        outcomes=list(outcomes(evaluation.best)),
        errors=evaluation.errors(),
        forms=forms,
        texts={},
    )


def linking(evaluation: Evaluation) -> Result | None:
    """What answering without a model comes to, on the graph of the best result; None where it was left out, or is the best."""
    found = [one for one in evaluation.results if one.method.kind == "linking" and one.system == evaluation.best.system]
    return next((one for one in found if one is not evaluation.best), None)


def tiles(evaluation: Evaluation) -> Iterator[Tile]:
    """The numbers that matter; before is linking, after the best."""
    compared = [one for one in (linking(evaluation), evaluation.best) if one is not None]
    note = "linking alone, then the best" if len(compared) > 1 else "of the best"
    yield Tile("Questions", "number", (len(evaluation.questions),), "each counts once")
    exact = tuple(float(one.judged.parts["object"].exact.mean()) for one in compared)
    yield Tile("EM of the object", "percent", exact, note)
    yield Tile("Score", "percent", tuple(one.score for one in compared), "(EM + F1) / 2 of the object")
    most = max(evaluation.best.hits)
    hits = tuple(one.hits[most] for one in compared if most in one.hits)
    yield Tile(f"Hits@{most}", "percent", hits, f"a right fact among the first {most}")
    pace = tuple(len(one.judged.right) / one.found.seconds for one in compared if one.found.seconds)
    yield Tile("Questions a second", "number", pace, "without reading the facts")


def drawn(evaluation: Evaluation) -> Iterator[Figure]:
    """Right part by part, and precision against coverage."""
    compared = [one for one in (linking(evaluation), evaluation.best) if one is not None]
    tones = ("before", "after")[2 - len(compared) :]
    yield Figure(
        "What is right",
        Markup(figures.parts(compared)),
        "EM by part of the first answer; all: every part of one answer.",
        tuple(Key(tone, one.name) for tone, one in zip(tones, compared, strict=True)),
    )
    lines = list(curved(evaluation))
    if lines:
        chosen = [(curve, stroke, threshold(one)) for one, curve, stroke in lines]
        keys = tuple(Key("", one.name, sample=stroke.sample) for one, _, stroke in lines)
        caption = "Answers come in the order of their scores; further right, more questions are answered."
        marked = any(at is not None for _, _, at in chosen)
        caption += " The mark is the threshold." if marked else ""
        caption += f" The best {MOST_CURVES} searches." if len(lines) == MOST_CURVES else ""
        yield Figure("When it abstains", Markup(figures.curves(chosen)), caption, keys)


def curved(evaluation: Evaluation) -> Iterator[tuple[Result, Curve, Stroke]]:
    """The searches that are drawn, the best first."""
    searches = [one for one in evaluation.results if one.method.kind == "search"]
    searches.sort(key=lambda one: -one.score)
    for one, stroke in zip(searches[:MOST_CURVES], STAGES, strict=False):
        curve = one.curve
        if curve is not None and len(curve.scores):
            yield one, curve, stroke


def threshold(result: Result) -> float | None:
    """Where a result abstains, if it does."""
    return None if result.abstention is None else result.abstention.threshold


def outcomes(result: Result) -> Iterator[Outcome]:
    """The errors of a result, those that occur."""
    counts = np.bincount(result.judged.outcomes, minlength=len(OUTCOMES)).tolist()
    for name, count in zip(OUTCOMES[1:], counts[1:], strict=True):
        if count:
            yield Outcome(HEADS[name], count, count / len(result.judged.outcomes), name)
