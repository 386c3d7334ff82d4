"""The figures of an evaluation on a graph: what is right part by part, and precision against coverage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kxbatch.engine.graph_evaluation import Result
from kxbatch.models.retrieval.abstention import Curve
from kxbatch.report.drawing import AFTER, BEFORE, INK, draw, set_ticks, share_axis
from kxbatch.report.strokes import Stroke
from kxbatch.report.training_figures import thinned
from kxbatch.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PARTS = ("subject", "predicate", "meaning", "object", "all")
WIDE = (430, 250)  # points
BAR = 0.36  # of the room of a part, for each of two


def parts(results: Sequence[Result]) -> str:
    """EM of each part, a bar for each of one or two results: the one to beat, and the best."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(PARTS), dtype=np.float64)[::-1]
        colours = [BEFORE, AFTER][2 - len(results) :]
        for number, (result, colour) in enumerate(zip(results, colours, strict=True)):
            values = [float(result.judged.parts[part].exact.mean()) for part in PARTS]
            at = places + (BAR / 2 - number * BAR if len(results) > 1 else 0)
            axes.barh(at, values, color=colour, height=BAR)
            for place, value in zip(at, values, strict=True):
                axes.text(value + 0.015, place, percent(value), va="center", color=INK, fontsize=10)
        set_ticks(axes, "y", list(places), list(PARTS))
        share_axis(axes, "x")
        axes.set_xlim(0, 1.17)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("exactly right")

    return draw("parts", "Share of questions whose answer has each part exactly right", paint, *WIDE[::-1])


def curves(lines: Sequence[tuple[Curve, Stroke, float | None]]) -> str:
    """Precision against coverage as the threshold falls, a line for each search; a dot where its threshold lies."""

    def paint(axes: Axes) -> None:
        lowest = 1.0
        for curve, stroke, threshold in lines:
            coverage, precision = curve.answered / curve.questions, curve.right / curve.answered
            places = thinned(precision)
            axes.plot(coverage[places], precision[places], **{**stroke.options, "marker": ""})
            lowest = min(lowest, float(precision[coverage >= min(0.05, coverage.max())].min()))
            if threshold is not None:
                chosen = curve.at(threshold)
                axes.plot([chosen.coverage], [chosen.precision], **{**stroke.options, "linestyle": "", "zorder": 5})
        share_axis(axes, "x")
        axes.set_ylim(max(0.0, lowest - 0.1 * (1.02 - lowest)), 1.0 + 0.03 * (1.02 - lowest))
        axes.locator_params("y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6)))
        axes.set_xlabel("questions that get an answer")
        axes.set_ylabel("answers that are right")

    return draw("coverage", "Share of right answers against share of answered questions", paint, *WIDE[::-1])
