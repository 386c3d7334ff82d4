"""The section on extract stages: which figures and texts there are, and what their legends say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from kxbatch.report import RowId, extraction_figures
from kxbatch.report.elements import Figure, Tile
from kxbatch.report.extraction import Extraction, TypeFacts
from kxbatch.report.extraction_rows import Entity, Row
from kxbatch.report.highlight import Mark, highlight, window
from kxbatch.report.wording import excerpt, nats, number, percent

MOST_TYPES = 30
TONES = 8  # of the types; they begin anew after these
MOST_LISTED = 12  # entities of a row whose text is not known


@dataclass(frozen=True)
class Shown:
    """A row that is shown: its text with the entities; or, where the text is not known, the entities alone.

    Attributes:
        id: of the row.
        score: of the least sure entity, where it is shown for that.
        text: None where it is not known, or has changed since.
        listed: the entities, where there is no text.
    """

    id: RowId
    score: float | None
    text: Markup | None
    listed: str


@dataclass(frozen=True)
class TypeRow:
    """A line of the table of types: facts, its share of the most frequent one, and the tone of its lines."""

    facts: TypeFacts
    share: float
    tone: str


@dataclass(frozen=True)
class StageView:
    """One stage: what is known, its figures, its types, and rows by what they are shown for; none without an entity."""

    stage: Extraction
    figures: tuple[Figure, ...]
    types: tuple[TypeRow, ...]
    lists: tuple[tuple[str, str, tuple[Shown, ...]], ...]

    @property
    def further(self) -> int:
        """Types that are not listed."""
        return len(self.stage.types) - len(self.types)


def section(extractions: Sequence[Extraction], texts: Mapping[RowId, str]) -> tuple[StageView, ...]:
    """Choose what is shown of these stages.

    Args:
        extractions: the stages.
        texts: those that are known.
    """
    return tuple(_view(f"extraction-{at}", one, texts) for at, one in enumerate(extractions))


def tiles(extractions: Sequence[Extraction]) -> Iterator[Tile]:
    """How many entities each stage has found."""
    for one in extractions:
        words = f"{number(one.entities / one.rows)} a text, {percent(one.empty / one.rows)} of them have none"
        yield Tile("Entities", "number", (one.entities,), f"{one.name}: {words}" if len(extractions) > 1 else words)


def _view(name: str, stage: Extraction, texts: Mapping[RowId, str]) -> StageView:
    tones = {one.name: f"t{at % TONES}" for at, one in enumerate(stage.types)}
    types = tuple(TypeRow(one, one.count / stage.types[0].count, tones[one.name]) for one in stage.types[:MOST_TYPES])
    lists = (
        ("Least sure", "The entity with the smallest score stands out.", stage.unsure, True),
        ("Most nested", "Entities inside others.", stage.nests, False),
        ("Typical", "Their mean score is nearest to the median.", stage.typical, False),
    )
    shown = tuple(
        (title, note, tuple(_shown(row, texts.get(row.id), tones, unsure) for row in rows))
        for title, note, rows, unsure in lists
        if rows
    )
    return StageView(stage, tuple(_figures(name, stage)), types, shown)


def _figures(name: str, stage: Extraction) -> Iterator[Figure]:
    if stage.histogram is not None:
        svg = extraction_figures.scores(f"{name}-scores", stage.histogram, stage.threshold)
        beyond = [("first", stage.histogram.below, "below"), ("last", stage.histogram.above, "above")]
        held = [f"The {bar} bar holds {number(count)} {side} it." for bar, count, side in beyond if count]
        yield Figure("Scores", Markup(svg), " ".join(["The further to the left, the less sure the model is.", *held]))
    if stage.entities:
        svg = extraction_figures.widths(f"{name}-widths", stage.widths)
        yield Figure("Widths", Markup(svg), f"The widest entity has {number(stage.widest)} characters.")


def _shown(row: Row, text: str | None, tones: Mapping[str, str], unsure: bool) -> Shown:
    weakest = min(row.entities, key=lambda one: one.score) if unsure else None
    score = None if weakest is None else weakest.score
    if text is None or any(text[one.start : one.end] != one.text for one in row.entities):
        words = [f"{excerpt(one.text, 60)} · {one.type}" for one in row.entities[:MOST_LISTED]]
        more = len(row.entities) - len(words)
        return Shown(row.id, score, None, "; ".join(words) + (f"; and {more} more" if more else ""))
    seen = weakest or next((one for one in row.entities if one.nested), row.entities[0])
    marks = [_mark(one, tones[one.type] + (" focus" if one is weakest else "")) for one in row.entities]
    return Shown(row.id, score, highlight(text, marks, *window(text, seen.start, seen.end)), "")


def _mark(one: Entity, tone: str) -> Mark:
    return Mark(one.start, one.end, one.type, tone, f"{one.type}, score {nats(one.score)}")
