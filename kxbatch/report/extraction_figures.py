"""The figures of extract stages: scores and widths of the entities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kxbatch.models.extraction.metrics import Numbers
from kxbatch.report.drawing import AFTER, draw, mark, set_ticks
from kxbatch.report.extraction import Histogram
from kxbatch.report.wording import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def scores(name: str, histogram: Histogram, threshold: float | None) -> str:
    """Histogram of the scores, with the threshold where there is one."""

    def paint(axes: Axes) -> None:
        axes.stairs(histogram.counts, histogram.edges, fill=True, color=AFTER, alpha=0.3)
        axes.stairs(histogram.counts, histogram.edges, color=AFTER, linewidth=1.2)
        axes.locator_params("x", nbins=5)
        axes.xaxis.set_major_formatter(lambda value, _: number(float(f"{value:.10g}")))
        _count_axis(axes)
        axes.set_xlabel("score")
        if threshold is not None:
            axes.set_ylim(top=1.15 * axes.get_ylim()[1])  # room for the word
            mark(axes, threshold, "threshold")

    return draw(name, "Histogram of the scores", paint)


def widths(name: str, counts: Numbers) -> str:
    """Entities by their width; the last bar are all wider ones, if there are any."""
    most = len(counts) if counts[-1] else int(np.flatnonzero(counts)[-1]) + 1

    def paint(axes: Axes) -> None:
        places = np.arange(1, most + 1)
        axes.bar(places, counts[:most], color=AFTER, alpha=0.75, width=0.8)
        _count_axis(axes)
        ticks = [at for at in range(1, most + 1, max(1, -(-most // 6))) if not counts[-1] or at < most - 2]
        labels = [str(tick) for tick in ticks]
        if counts[-1]:
            ticks, labels = [*ticks, most], [*labels, f"≥ {most}"]
        set_ticks(axes, "x", ticks, labels)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("characters")

    return draw(name, "Entities by their width", paint)


def _count_axis(axes: Axes) -> None:
    axes.locator_params("y", nbins=4, integer=True)
    axes.yaxis.set_major_formatter(lambda value, _: number(round(value)))
    axes.set_ylabel("entities")
