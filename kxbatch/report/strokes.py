"""Lines that are told apart by colour, dashes and marker alike, on a figure and in its legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kxbatch.report.drawing import AFTER, BEFORE, INK, PAPER, SERIES, VARIABLES

MARKERS = {
    "o": "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0-6 0z",
    "s": "M-2.7-2.7h5.4v5.4h-5.4z",
    "^": "M0-3.4L3.2 2.6H-3.2z",
    "D": "M0-3.6L3.6 0L0 3.6L-3.6 0z",
    "v": "M0 3.4L3.2-2.6H-3.2z",
    "P": "M-1.2-3.4h2.4v2.2h2.2v2.4h-2.2v2.2h-2.4v-2.2h-2.2v-2.4h2.2z",
    "X": "M-3.2-1.6L-1.6-3.2L0-1.6L1.6-3.2L3.2-1.6L1.6 0L3.2 1.6L1.6 3.2L0 1.6L-1.6 3.2L-3.2 1.6L-1.6 0z",
    "<": "M-3.4 0L2.6-3.2V3.2z",
}  # matplotlib's names; outlines around the middle, for the legend
DASHES: tuple[tuple[float, ...], ...] = (
    (), (5, 1.6), (1.2, 1.2), (5, 1.4, 1.2, 1.4), (9, 1.8), (2.6, 1.2), (7, 1.2, 1.2, 1.2, 1.2, 1.2), (),
)  # fmt: skip


@dataclass(frozen=True)
class Stroke:
    """How one line is drawn.

    Attributes:
        color: a sentinel of `drawing`.
        dash: lengths of strokes and gaps, in line widths; () for none.
        width: in points.
        marker: one of `MARKERS`, or none.
    """

    color: str
    dash: tuple[float, ...] = ()
    width: float = 1.6
    marker: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """For matplotlib."""
        line: dict[str, Any] = {"color": self.color, "linestyle": (0, self.dash) if self.dash else "-"}
        return {**line, "linewidth": self.width, "marker": self.marker, "markersize": 5, "markerfacecolor": PAPER}

    @property
    def sample(self) -> Markup:
        """A bit of it, for a legend."""
        color = f"var(--{VARIABLES[self.color]})"
        dash = " ".join(f"{length * self.width:g}" for length in self.dash)
        line = f'<path d="M1 6H43" stroke="{color}" stroke-width="{self.width}" stroke-dasharray="{dash or "none"}"/>'
        mark = f'<path d="{MARKERS[self.marker]}" transform="translate(22 6)" stroke="{color}"/>' if self.marker else ""
        return Markup(f'<svg class="sample" viewBox="0 0 44 12" aria-hidden="true">{line}{mark}</svg>')


STAGES = tuple(Stroke(color, dash, marker=marker) for color, dash, marker in zip(SERIES, DASHES, MARKERS, strict=True))
EVERY_LINE = Stroke(BEFORE, width=0.9)
SMOOTHED = Stroke(AFTER)
VALIDATION = Stroke(INK, (4, 1.4), 2.2, "s")
GROUP = Stroke(AFTER)
OUTLIERS = Stroke(SERIES[1], (4, 1.4), 1.8)
