"""The section on retrieve stages: which figures and tables there are, and what their legends say."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kxbatch.report.density_figures import log_density
from kxbatch.report.elements import Figure, Key, Tile
from kxbatch.report.retrieval import Retrieval
from kxbatch.report.retrieval_rows import PARTS
from kxbatch.report.strokes import GROUP, OUTLIERS
from kxbatch.report.wording import nats, number

MOST_REASONS = 5


@dataclass(frozen=True)
class StageView:
    """One stage: what is known, its histogram if there is one, a line for each part, and what its matches count.

    Attributes:
        stage: what was read.
        figures: none without an answer.
        parts: part, its mean log p, and the share of the answers whose least sure part it is; none without an answer.
        counted: which rows the matches are of.
    """

    stage: Retrieval
    figures: tuple[Figure, ...]
    parts: tuple[tuple[str, float, float], ...]
    counted: str


def section(retrievals: Sequence[Retrieval]) -> tuple[StageView, ...]:
    """Choose what is shown of these stages."""
    return tuple(
        StageView(
            one,
            tuple(_figures(f"retrieval-{at}", one)),
            tuple(zip(PARTS, one.parts, one.weakest, strict=True)) if one.parts else (),
            _counted(one),
        )
        for at, one in enumerate(retrievals)
    )


def tiles(retrievals: Sequence[Retrieval]) -> Iterator[Tile]:
    """How many questions each stage has answered, and why not the others."""
    for one in retrievals:
        why = [f"{number(count)} {reason[:40]}" for reason, count in [*one.reasons.items()][:MOST_REASONS]]
        words = ", ".join(why) if why else f"all {number(one.rows)}"
        yield Tile(
            "Answered", "percent", (one.answered / one.rows,), f"{one.name}: {words}" if len(retrievals) > 1 else words
        )


def _figures(name: str, stage: Retrieval) -> Iterator[Figure]:
    if stage.histogram is None:
        return
    svg = log_density(f"{name}-histogram", stage.histogram, "log p", stage.threshold)
    others, wrong = (int(rows) for rows in stage.histogram.rows.sum(axis=1))
    keys: tuple[Key, ...] = ()
    if wrong:
        known = stage.matches[0].answered == others + wrong
        key = Key("", "right" if known else "right or not known", number(others), GROUP.sample)
        keys = (key, Key("", "wrong subject or predicate", number(wrong), OUTLIERS.sample))
    yield Figure("Log p of the best answers", Markup(svg), " ".join(_histogram_words(stage, bool(wrong))), keys)


def _histogram_words(stage: Retrieval, apart: bool) -> Iterator[str]:
    yield "The further to the left, the less sure the model is."
    if apart:
        yield "Each group's bars add up to 100 %."
    if stage.threshold is not None:
        yield f"Below {nats(stage.threshold)} a question gets no answer."
    if stage.histogram is not None and stage.histogram.below:
        yield f"The first bar holds {number(stage.histogram.below)} answers below it."


def _counted(stage: Retrieval) -> str:
    words = "Texts are compared normalised. Shares are of the answered questions."
    if len(stage.matches) > 1:
        return f"{words} Column {stage.learned!r} tells which rows were learned from; new ones say what to expect."
    if stage.learned is None:
        return f"{words} The model was trained on all rows of this job, so they say nothing of new questions."
    return f"{words} All rows count, those learned from included: keep the boolean column {stage.learned!r} to tell them apart."
