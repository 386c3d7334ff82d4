"""A text with its spans: lines below and above it, one under the other where spans lie inside each other or cross.

Below stands what holds, above what was found and is wrong. Lines are told apart by colour and by how they are drawn, spans by
small labels at their ends and by the words that a pointer calls up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from kxbatch.report.wording import CONTROL

LANES = 8  # drawn apart; deeper ones share the last
AROUND, MOST = 60, 400  # code points before and after what is looked at, and in all
MOST_MARKS = 60  # drawn in one text: a model that has learned nothing yet may find thousands
VISIBLE = str.maketrans({"\n": "↵", "\t": "⇥", "\r": None})


@dataclass(frozen=True)
class Mark:
    """A span that is drawn.

    Attributes:
        start: in code points of the text.
        end: exclusive.
        label: its type.
        tone: class of its line.
        words: what a pointer calls up.
        above: whether its line is above the text.
    """

    start: int
    end: int
    label: str
    tone: str
    words: str
    above: bool = False


def window(text: str, start: int, end: int) -> tuple[int, int]:
    """What is shown of a long text around the code points from `start` to `end`: first and last, exclusive."""
    first = max(0, start - AROUND)
    return first, min(len(text), end + AROUND, first + MOST)


def highlight(text: str, marks: Sequence[Mark], first: int = 0, last: int | None = None) -> Markup:
    """The code points of a text from `first` to `last` with their spans; every text in it is escaped here.

    Args:
        text: whole.
        marks: spans of it, in any order, of which the shortest `MOST_MARKS` are drawn; what lies outside is cut off.
        first: first code point.
        last: exclusive; None for the end.
    """
    last = len(text) if last is None else last
    inside = [mark for mark in marks if mark.start < last and mark.end > first]
    seen = sorted(inside, key=lambda mark: mark.end - mark.start)[:MOST_MARKS]
    lanes = _lanes(seen)
    inner = {at for mark in seen for at in (mark.start, mark.end) if first < at < last}
    pieces = [_piece(text, *ends, lanes) for ends in pairwise(sorted({first, last} | inner))]
    above, below = (max((lanes[one] + 1 for one in seen if one.above is side), default=0) for side in (True, False))
    end = "…" if last < len(text) else ""
    if len(inside) > len(seen):
        end += f" ({len(inside) - len(seen)} more spans are not drawn)"
    return Markup('<p class="spans" dir="auto" style="--above: {}; --below: {}">{}{}{}</p>').format(
        above, below, "…" if first > 0 else "", Markup("").join(pieces), end
    )


def _lanes(marks: Sequence[Mark]) -> dict[Mark, int]:
    """How far each line is from the text: the shorter the nearer, and none on another one."""
    lanes: dict[Mark, int] = {}
    for mark in sorted(marks, key=lambda one: (one.end - one.start, one.start, one.label)):
        near = (one for one in lanes if one.above is mark.above and one.start < mark.end and mark.start < one.end)
        lanes[mark] = min(max((lanes[one] for one in near), default=-1) + 1, LANES - 1)
    return lanes


def _piece(text: str, start: int, end: int, lanes: Mapping[Mark, int]) -> Markup:
    """Code points that the same spans cover, with the labels of those that end there; inner lines inside outer ones."""
    drawn = escape(CONTROL.sub(" ", text[start:end].translate(VISIBLE)))
    marks = sorted((mark for mark in lanes if mark.start <= start and end <= mark.end), key=lambda one: lanes[one])
    for mark in marks:
        if mark.end == end:
            label = Markup('<sup class="{}">{}</sup>' if mark.above else '<sub class="{}">{}</sub>')
            drawn += label.format(mark.tone, mark.label)
    for mark in marks:
        names = ["above" if mark.above else "below", f"l{lanes[mark]}", mark.tone, *["begins"] * (mark.start == start)]
        drawn = Markup('<span class="{}">{}</span>').format(" ".join(names), drawn)
    if not marks:
        return drawn
    return Markup('<span title="{}">{}</span>').format("; ".join(mark.words for mark in reversed(marks)), drawn)
