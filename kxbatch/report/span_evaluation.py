"""`evaluation.html`: how well entities are found, one file that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kxbatch.data.storage import File, Folder
from kxbatch.engine.span_evaluation import Evaluation, System
from kxbatch.engine.span_examples import Example, examples
from kxbatch.models.extraction.metrics import SpanSet
from kxbatch.models.extraction.span_errors import KINDS, RIGHT
from kxbatch.report import wording
from kxbatch.report.elements import Tile
from kxbatch.report.highlight import Mark, highlight, window

PAGE = "evaluation.html"
MOST_CONFUSIONS = 8
HEADS = {  # how a kind of error is told
    "type": ("Wrong type", "The offsets are right."),
    "boundary": ("Wrong boundary", "The type is right, and the two spans share characters."),
    "boundary and type": ("Wrong boundary and type", "The two spans share characters."),
    "spurious": ("Spurious", "Found, and no gold span is left to compare with."),
    "missed": ("Missed", "Gold, and no found span is left to compare with."),
}


@dataclass(frozen=True)
class Shown:
    """An error with its surroundings.

    Attributes:
        id: of the row; None where rows have none.
        text: a part of it with all spans there.
        gold: the right span, `surface TYPE`; None where there is none.
        found: the same of what was found.
        score: of what was found; None where there is none.
    """

    id: object
    text: Markup
    gold: str | None
    found: str | None
    score: float | None


@dataclass(frozen=True)
class Kind:
    """A kind of error of one system.

    Attributes:
        title: for people.
        note: what it is.
        count: how many there are.
        share: of all errors of the system.
        shown: some of them.
    """

    title: str
    note: str
    count: int
    share: float
    shown: tuple[Shown, ...]


def build(evaluation: Evaluation, output: Folder) -> File:
    """Writes the page; it is replaced as a whole or not at all."""
    output.publish_bytes(PAGE, render(evaluation).encode("utf-8", "replace"))
    return output.file(PAGE)


def render(evaluation: Evaluation) -> str:
    """The page; every text in it is escaped here."""
    environment = Environment(
        loader=PackageLoader("kxbatch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = {name: getattr(wording, name) for name in ("number", "percent", "score")}
    environment.filters.update(forms, excerpt=wording.excerpt)
    return environment.get_template("span_evaluation.html.j2").render(
        evaluation=evaluation,
        best=evaluation.best,
        gold=evaluation.systems[0].measures.micro.gold,
        tiles=list(tiles(evaluation)),
        types=list(by_type(evaluation)),
        counts=[(system, system.judged.counts()) for system in evaluation.systems],
        errors=[
            (system, list(kinds(evaluation, system)), confused(evaluation, system)) for system in evaluation.systems
        ],
        forms=forms,
    )


def tiles(evaluation: Evaluation) -> Iterator[Tile]:
    """The numbers that matter, of the best system."""
    measures = evaluation.best.measures
    note = "exact offsets and type" if len(evaluation.systems) == 1 else f"of {evaluation.best.name}, the best"
    yield Tile("Texts", "number", (len(evaluation.texts),), f"{wording.number(len(evaluation.gold))} gold spans")
    yield Tile("F1", "percent", (measures.micro.f1,), note)
    yield Tile("Precision", "percent", (measures.micro.precision,), f"of {wording.number(measures.micro.found)} found")
    yield Tile("Recall", "percent", (measures.micro.recall,), f"of {wording.number(measures.micro.gold)} gold")
    if measures.nested.gold:
        share = wording.percent(measures.nested.gold / measures.micro.gold)
        yield Tile("F1, nested", "percent", (measures.nested.f1,), f"{share} of the gold spans are nested")


def by_type(evaluation: Evaluation) -> Iterator[tuple[str, int, list[System]]]:
    """Types with gold or found spans, the most frequent first: name, place, systems."""
    counts = [(-one.gold, place) for place, one in enumerate(evaluation.systems[0].measures.by_type)]
    for _, place in sorted(counts):
        yield evaluation.types[place], place, list(evaluation.systems)


def confused(evaluation: Evaluation, system: System) -> list[tuple[str, str, int]]:
    """Types that are most often taken for each other: gold, found, how often."""
    pairs = system.confusions(evaluation.gold)[:MOST_CONFUSIONS]
    return [(evaluation.types[gold], evaluation.types[found], count) for gold, found, count in pairs]


def kinds(evaluation: Evaluation, system: System) -> Iterator[Kind]:
    """The kinds of errors of a system that occur."""
    counts, some = system.judged.counts(), examples(system.judged)
    total = sum(count for name, count in counts.items() if name != KINDS[RIGHT])
    for name, shown in some.items():
        views = tuple(_shown(evaluation, system, one) for one in shown)
        yield Kind(*HEADS[name], counts[name], counts[name] / total, views)


def _shown(evaluation: Evaluation, system: System, one: Example) -> Shown:
    sides = ((evaluation.gold, one.gold), (system.found, one.found))
    places = [(spans, at) for spans, at in sides if at is not None]
    row = int(places[0][0].rows[places[0][1]])
    text: str = evaluation.texts[row].as_py()
    ends = window(text, min(int(s.starts[at]) for s, at in places), max(int(s.ends[at]) for s, at in places))
    words = [None if at is None else _words(evaluation, text, spans, at) for spans, at in sides]
    score = None if one.found is None else _score(system, one.found)
    name = None if evaluation.ids is None else evaluation.ids[row].as_py()
    return Shown(name, highlight(text, list(_marks(evaluation, system, row, one)), *ends), words[0], words[1], score)


def _marks(evaluation: Evaluation, system: System, row: int, one: Example) -> Iterator[Mark]:
    """All spans of a text: those that are right once, below; those of the error stand out."""
    gold, found, judged = evaluation.gold, system.found, system.judged
    for at in range(*np.searchsorted(gold.rows, [row, row + 1])):
        if judged.gold[at] != RIGHT:
            label, tone = evaluation.types[gold.types[at]], "missed focus" if at == one.gold else "missed"
            yield Mark(int(gold.starts[at]), int(gold.ends[at]), label, tone, f"gold {label}")
    for at in range(*np.searchsorted(found.rows, [row, row + 1])):
        label, right = evaluation.types[found.types[at]], judged.found[at] == RIGHT
        tone = "right" if right else "wrong focus" if at == one.found else "wrong"
        score = _score(system, at)
        words = f"{'right' if right else 'found'} {label}" + ("" if score is None else f", score {wording.nats(score)}")
        yield Mark(int(found.starts[at]), int(found.ends[at]), label, tone, words, above=not right)


def _words(evaluation: Evaluation, text: str, spans: SpanSet, at: int) -> str:
    surface = wording.excerpt(text[int(spans.starts[at]) : int(spans.ends[at])], 80)
    return f"{surface} · {evaluation.types[spans.types[at]]}"


def _score(system: System, at: int) -> float | None:
    score = float(system.confidences[at])
    return score if np.isfinite(score) else None
