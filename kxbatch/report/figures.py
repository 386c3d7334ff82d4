"""The figures of the report: data in, inline SVG out. "Before" is grey and dashed, "after" blue and solid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.report.drawing import (
    AFTER,
    BEFORE,
    INK,
    MUTED,
    PAPER,
    draw,
    make_logarithmic,
    mark,
    power_label,
    set_ticks,
    share_axis,
)
from kxbatch.report.record import Histogram, Measures, Spectrum, Unit
from kxbatch.report.wording import number, percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE_LINE: dict[str, Any] = {"color": BEFORE, "linestyle": (0, (4, 2)), "marker": "s"}
AFTER_LINE: dict[str, Any] = {"color": AFTER, "linestyle": "-", "marker": "o"}
BIN_GROWTH = 1.3  # bins of the histogram widen by this factor, from one value each at the left
MOST_POINTS = 600  # in one figure of unit times; beyond that every second, third, ... unit is drawn


def line_styles(count: int) -> list[dict[str, Any]]:
    """How to draw the compared graphs: before and after, or after alone."""
    return [BEFORE_LINE, AFTER_LINE][2 - count :]


@dataclass(frozen=True)
class Bins:
    """A histogram over widening bins: the middle of each bin, and its rows per value of k-occurrence."""

    middle: NDArray[np.float64]
    density: NDArray[np.float64]


def widening_bins(histogram: Histogram) -> Bins:
    """Collect a histogram into bins that widen geometrically; empty bins are left out.

    Args:
        histogram: rows at each k-occurrence.

    Returns:
        Bins whose densities times widths add up to the number of rows. The first is k-occurrence 0 alone.
    """
    values = np.asarray(histogram.k_occurrence, dtype=np.int64)
    rows = np.asarray(histogram.rows, dtype=np.float64)
    edges = [0, 1]
    while edges[-1] <= (values.max() if len(values) else 0):
        edges.append(max(edges[-1] + 1, int(edges[-1] * BIN_GROWTH)))
    bounds = np.asarray(edges)
    totals = np.bincount(np.searchsorted(bounds, values, side="right") - 1, rows, minlength=len(bounds))[:-1]
    first, last = bounds[:-1], bounds[1:] - 1
    middle = np.sqrt(np.maximum(first, 0) * last.astype(np.float64))
    full = totals > 0
    return Bins(middle[full], (totals / (last - first + 1))[full])


def k_occurrence(graphs: Sequence[Measures]) -> str:
    """Histogram of the k-occurrence on logarithmic axes, a line for each graph; 0 has its own place."""
    bins = [widening_bins(graph.histogram) for graph in graphs]
    largest = max(float(one.middle.max()) for one in bins)
    densities = np.concatenate([one.density for one in bins])

    def paint(axes: Axes) -> None:
        for one, style in zip(bins, line_styles(len(bins)), strict=True):
            axes.plot(one.middle, one.density, **style, markersize=4, markerfacecolor=PAPER)
        make_logarithmic(axes, "y", float(densities.min()), float(densities.max()))
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        ticks = [0.0, *(10.0**power for power in range(int(np.ceil(np.log10(max(largest, 10.0)))) + 1))]
        set_ticks(axes, "x", ticks, ["0", *map(power_label, ticks[1:])])
        axes.set_xlim(-0.25, max(largest, 10.0) * 1.3)
        axes.set_xlabel("k-occurrence: how often a row is found")
        axes.set_ylabel("rows per value")
        if len({graph.k for graph in graphs}) == 1 and all(graph.n > graph.k for graph in graphs):
            mark(axes, graphs[0].k, f"mean {graphs[0].k}")

    return draw("k-occurrence", "Histogram of the k-occurrence, logarithmic on both axes", paint)


def lorenz_curve(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Share of rows, least found first, against their share of all neighbour slots; from (0, 0) to (1, 1)."""
    rows = np.asarray(histogram.rows, dtype=np.float64)
    slots = rows * np.asarray(histogram.k_occurrence, dtype=np.float64)
    cumulated = [np.concatenate([[0.0], np.cumsum(part)]) for part in (rows, slots)]
    share_rows, share_slots = (part / max(part[-1], 1.0) for part in cumulated)
    return share_rows, share_slots


def lorenz(graphs: Sequence[Measures]) -> str:
    """Lorenz curves of the k-occurrence; the diagonal is the graph that finds every row equally often."""

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9)
        for graph, style in zip(graphs, line_styles(len(graphs)), strict=True):
            axes.plot(*lorenz_curve(graph.histogram), **{**style, "marker": ""})
        axes.text(0.42, 0.5, "all equally often", ha="right", va="bottom", fontsize=10.5)
        share_axis(axes, "x")
        share_axis(axes, "y")
        axes.set_xlabel("share of rows, least found first")
        axes.set_ylabel("share of neighbour slots")

    return draw("lorenz", "Lorenz curve: share of rows against share of neighbour slots", paint)


def isotropy(values: Sequence[float]) -> str:
    """Mean cosine of random rows, a bar for each set of vectors: 0 is isotropic, 1 all in one direction."""

    def paint(axes: Axes) -> None:
        names = ["before", "after"][2 - len(values) :]
        places = np.arange(len(values), dtype=np.float64)[::-1]
        colours = [BEFORE, AFTER][2 - len(values) :]
        axes.barh(places, values, color=colours, height=0.4)
        for place, value in zip(places, values, strict=True):
            axes.text(max(value, 0.0) + 0.02, place, number(value), va="center", color=INK)
        set_ticks(axes, "y", list(places), names if len(values) > 1 else [""])
        set_ticks(axes, "x", [0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
        axes.set_xlim(min(0.0, *values, -0.01), 1.13)
        axes.set_ylim(-0.6, len(values) - 0.4)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("mean cosine of two random rows")

    return draw("isotropy", "Mean cosine between random rows", paint)


def spectrum(name: str, record: Spectrum) -> str:
    """Eigenvalues of the covariance, largest first, on a logarithmic axis; what is zero but for rounding is left out."""
    values = np.asarray([value or 0.0 for value in record.eigenvalues])
    places = np.flatnonzero(values > 1e-10 * max(values.max(initial=0.0), 1e-300))

    def paint(axes: Axes) -> None:
        marker = "o" if len(places) < 3 else ""
        axes.plot(places + 1, values[places], color=AFTER, marker=marker, markersize=4)
        make_logarithmic(axes, "y", float(values[places].min()), float(values[places].max()))
        _directions(axes, len(values), record.dim)
        axes.set_ylabel("eigenvalue")

    return draw(name, "Eigenvalues of the covariance, largest first", paint)


def explained(name: str, record: Spectrum) -> str:
    """Cumulative share of the variance in the first directions."""
    shares = [0.0, *(share or 0.0 for share in record.explained_share)]

    def paint(axes: Axes) -> None:
        axes.plot(np.arange(len(shares)), shares, color=AFTER)
        share_axis(axes, "y")
        _directions(axes, len(shares) - 1, record.dim)
        axes.set_ylabel("share of the variance")
        if 0 < record.dim < len(shares):
            kept = shares[record.dim]
            axes.plot([record.dim], [kept], "o", color=AFTER, markersize=6)
            right = record.dim > 0.55 * len(shares)
            axes.annotate(
                percent(kept),
                (record.dim, kept),
                xytext=(-7 if right else 7, -7),
                textcoords="offset points",
                ha="right" if right else "left",
                va="top",
                color=INK,
            )

    return draw(name, "Cumulative share of the variance in the first directions", paint)


def stride(units: int) -> int:
    """Every how manieth of so many units of work is drawn."""
    return max(1, -(-units // MOST_POINTS))


def unit_seconds(name: str, units: Sequence[Unit]) -> str:
    """Seconds of every unit of work in order; hollow and grey where an earlier run had done it."""
    step = stride(len(units))
    timed = [(at, unit.seconds, unit.reused) for at, unit in enumerate(units) if unit.seconds is not None][::step]

    def paint(axes: Axes) -> None:
        for reused, colour, face in ((True, BEFORE, PAPER), (False, AFTER, AFTER)):
            points = np.asarray([(at, seconds) for at, seconds, again in timed if again is reused]).reshape(-1, 2)
            if len(timed) <= 80:
                axes.vlines(points[:, 0], 0, points[:, 1], color=colour, linewidth=1.2)
            size = 4.5 if len(timed) <= 80 else 2.5
            axes.plot(*points.T, "o", color=colour, markerfacecolor=face, markersize=size)
        highest = max((seconds for _, seconds, _ in timed), default=0.0) or 1.0
        axes.set_ylim(0, highest * 1.12)
        axes.set_xlim(-0.6, len(units) - 0.4)
        axes.locator_params("y", nbins=4)
        axes.locator_params("x", nbins=6, integer=True)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("unit of work, in the order of the plan")
        axes.set_ylabel("seconds")

    return draw(name, "Seconds of every unit of work", paint, height=160)


def _directions(axes: Axes, total: int, kept: int) -> None:
    axes.locator_params("x", nbins=6, integer=True)
    axes.set_xlim(0 if total > 2 else -0.5, max(total, 1) * 1.04)
    axes.set_xlabel("direction, by variance")
    if 0 < kept < total:
        mark(axes, kept, f"kept: {kept}", left=kept > 0.6 * total)
