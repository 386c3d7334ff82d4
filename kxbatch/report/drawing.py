"""How a figure of the report is drawn: matplotlib without a display, to an inline SVG in the page's colours.

Colours are drawn as sentinel values and replaced by CSS variables afterwards, so that one SVG serves the
light and the dark page. Text stays text, in the font of the page; it never comes from the data, so nothing
here needs escaping but the description. The same data gives the same bytes, whatever the user's settings.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDTH, HEIGHT = 300, 214  # points; the size of a phone, where letters are smallest
INK, MUTED, LINE, BEFORE, AFTER, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
SERIES = ("#070707", "#080808", "#090909", "#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d", "#0e0e0e")
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", AFTER: "after", PAPER: "card"}
VARIABLES |= dict(zip(SERIES, ("one", "two", "three", "four", "five", "six", "seven", "eight"), strict=True))
SETTINGS: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": LINE,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 11,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.facecolor": "none",
    "font.size": 11,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "svg.fonttype": "none",
    "svg.hashsalt": "kxbatch",
    "text.color": MUTED,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "xtick.labelsize": 10.5,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.labelsize": 10.5,
}
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(name: str, description: str, paint: Callable[[Axes], None], height: int = HEIGHT, width: int = WIDTH) -> str:
    """Draw one figure.

    Args:
        name: unique on the page; prefixes every id inside the SVG.
        description: what the figure shows, for those who cannot see it.
        paint: puts the data on the axes, in the sentinel colours of this module.
        height: in points.
        width: in points; the wider, the smaller the letters where there is little room.

    Returns:
        An `<svg>` element.
    """
    from matplotlib.figure import Figure
    from matplotlib.style import context

    buffer = io.BytesIO()
    with context(["default", SETTINGS]):
        figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
        paint(figure.add_subplot())
        nameless = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nameless)
    return inline(buffer.getvalue().decode("utf-8"), name, description)


def inline(svg: str, name: str, description: str) -> str:
    """Turn the text of matplotlib's SVG file into an element for the middle of a page.

    Args:
        svg: the file's text.
        name: prefix of its ids, so that no two figures on a page share one.
        description: becomes the accessible name.
    """
    opening = svg.index("<svg")
    body = svg[svg.index(">", opening) + 1 :].strip()
    body = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = re.sub(r'\bid="', f'id="{name}-', body).replace("url(#", f"url(#{name}-")
    body = body.replace('xlink:href="#', f'href="#{name}-')
    body = re.sub(r"font-family: [^;\"]*;? ?", "", body)
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\.\d\d)\d+", r"\1", tag[0]), body)  # shorter coordinates
    for sentinel, variable in VARIABLES.items():
        body = body.replace(sentinel, f"var(--{variable})")
    box = re.search(r'viewBox="[^"]*"', svg)
    return f'<svg {box[0] if box else ""} role="img" aria-label="{escape(description)}">{body}'


def power_label(value: float) -> str:
    """A tick label of a logarithmic axis: plain from 0.001 to below 10000, else as a power of ten."""
    if 0.001 <= value < 10_000:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10.0**exponent
    power = "10" + str(exponent).translate(RAISED)
    return power if math.isclose(mantissa, 1.0) else f"{mantissa:g}·{power}"


def logarithmic_ticks(low: float, high: float) -> list[float]:
    """A few round values from the one at or below `low` to the one at or above `high`; both are positive."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    if last - first > 2:
        stride = math.ceil((last - first) / 6)
        return [10.0**power for power in range(first, last + stride, stride)]
    fine = [factor * 10.0**power for power in range(first - 1, last + 2) for factor in (1, 2, 5)]
    below = max(tick for tick in fine if tick <= low)
    above = min(tick for tick in fine if tick >= high)
    return [tick for tick in fine if below <= tick <= above]


def set_ticks(axes: Axes, which: Literal["x", "y"], ticks: Sequence[float], labels: Sequence[str]) -> None:
    """Label one axis at these places and nowhere else."""
    from matplotlib.ticker import NullLocator

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_ticks(ticks, labels=list(labels))
    axis.set_minor_locator(NullLocator())


def make_logarithmic(axes: Axes, which: Literal["x", "y"], low: float, high: float) -> None:
    """Make one axis logarithmic, from the round value that is not above `low` to the one not below `high`."""
    ticks = logarithmic_ticks(low, high)
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    set_ticks(axes, which, ticks, [power_label(tick) for tick in ticks])
    (axes.set_xlim if which == "x" else axes.set_ylim)(ticks[0] / 1.15, ticks[-1] * 1.15)


def share_axis(axes: Axes, which: Literal["x", "y"]) -> None:
    """Make one axis run from nothing to everything."""
    set_ticks(axes, which, [0, 0.25, 0.5, 0.75, 1], ["0", "25 %", "50 %", "75 %", "100 %"])
    (axes.set_xlim if which == "x" else axes.set_ylim)(-0.01, 1.03)


def mark(axes: Axes, at: float, words: str, left: bool = False) -> None:
    """A labelled vertical line."""
    axes.axvline(at, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
    axes.annotate(
        words,
        (at, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-4 if left else 4, -2),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top",
        fontsize=10.5,
    )
