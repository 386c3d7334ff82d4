"""The figures of density stages: densities, calibration, effective samples, convergence, latent units, a bound, code lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kxbatch.report.density import BoundSteps, Estimate
from kxbatch.report.density_rows import Floats
from kxbatch.report.density_survey import ESS_EDGES, Counts, Ess, Histogram
from kxbatch.report.drawing import AFTER, BEFORE, INK, MUTED, draw, make_logarithmic, mark, set_ticks, share_axis
from kxbatch.report.strokes import OUTLIERS
from kxbatch.report.wording import number, percent
from kxbatch.stages.density_gate import FEW

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def log_density(name: str, histogram: Histogram, words: str, threshold: float | None = None) -> str:
    """Histogram of the log densities; where there are known outliers, both groups by their shares.

    Args:
        name: of the figure.
        histogram: of the rows.
        words: what the values are called.
        threshold: value that is marked.
    """
    groups = histogram.rows.sum(axis=1)
    apart = bool(groups[1])
    heights = histogram.rows / (np.maximum(groups, 1)[:, None] if apart else 1)

    def paint(axes: Axes) -> None:
        if groups[0]:
            axes.stairs(heights[0], histogram.edges, fill=True, color=AFTER, alpha=0.3)
            axes.stairs(heights[0], histogram.edges, color=AFTER, linewidth=1.2)
        if apart:
            stroke = OUTLIERS.options
            line = {key: stroke[key] for key in ("color", "linestyle", "linewidth")}
            axes.stairs(heights[1], histogram.edges, **line)
            axes.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6)))
        else:
            axes.yaxis.set_major_formatter(lambda value, _: number(round(value)))
        axes.locator_params("x", nbins=5)
        axes.locator_params("y", nbins=4, integer=not apart)
        axes.xaxis.set_major_formatter(lambda value, _: number(float(f"{value:.10g}")))
        axes.set_xlabel(f"{words}, nats")
        axes.set_ylabel("share of the group" if apart else "rows")
        if threshold is not None:
            axes.set_ylim(top=1.15 * axes.get_ylim()[1])  # room for the word
            mark(axes, threshold, "threshold")

    return draw(name, f"Histogram of the {words}", paint)


def calibration(name: str, cumulative: Counts) -> str:
    """Share of the rows up to each percentile of the calibration rows; rows like those follow the diagonal."""
    shares = cumulative / cumulative[-1]
    percentiles = np.linspace(0.0, 1.0, len(shares))

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=0.9)
        axes.plot([0.0, *percentiles], [0.0, *shares], color=AFTER, drawstyle="steps-post")
        axes.text(0.62, 0.5, "like the calibration", ha="left", va="top", fontsize=10.5)
        share_axis(axes, "x")
        share_axis(axes, "y")
        axes.set_xlabel("percentile among the calibration rows")
        axes.set_ylabel("share of rows up to it")

    return draw(name, "Cumulative share of the rows by percentile of their log density", paint)


def effective_samples(name: str, ess: Ess, samples: int | None) -> str:
    """Histogram of the effective sample size, from one to all the samples, on a logarithmic axis."""
    full = np.flatnonzero(ess.counts)
    top = float(samples or ESS_EDGES[full[-1] + 1])

    def paint(axes: Axes) -> None:
        axes.stairs(ess.counts, ESS_EDGES, fill=True, color=AFTER, alpha=0.3)
        axes.stairs(ess.counts, ESS_EDGES, color=AFTER, linewidth=1.2)
        make_logarithmic(axes, "x", 1.0, max(top, 2.0 * FEW))
        axes.locator_params("y", nbins=4, integer=True)
        axes.yaxis.set_major_formatter(lambda value, _: number(round(value)))
        mark(axes, FEW, str(FEW))
        axes.set_xlabel(f"effective samples{f' of {samples}' if samples else ''}")
        axes.set_ylabel("rows")

    return draw(name, "Histogram of the effective sample size", paint)


def convergence(name: str, estimates: Sequence[Estimate]) -> str:
    """Mean log density of the calibration rows by the number of samples, with standard errors."""
    samples = np.asarray([one.samples for one in estimates], dtype=np.float64)
    means = np.asarray([one.mean for one in estimates], dtype=np.float64)
    errors = np.asarray([one.stderr or 0.0 for one in estimates])

    def paint(axes: Axes) -> None:
        axes.errorbar(samples, means, np.abs(errors), color=AFTER, marker="o", markersize=4, capsize=3, elinewidth=1.2)
        make_logarithmic(axes, "x", float(samples.min()), float(samples.max()))
        axes.locator_params("y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.10g}".replace("-", "−"))
        axes.set_xlabel("samples")
        axes.set_ylabel("mean, nats")

    return draw(name, "Mean log density by the number of samples", paint)


def units(name: str, kl: Floats, active: Sequence[bool]) -> str:
    """KL divergence of every latent dimension from the prior, largest first; grey where it is not in use."""
    order = np.argsort(-kl, kind="stable")
    colors = [AFTER if active[at] else BEFORE for at in order]

    def paint(axes: Axes) -> None:
        axes.bar(np.arange(1, len(kl) + 1), kl[order], color=colors, width=0.75)
        axes.locator_params("x", nbins=6, integer=True)
        axes.locator_params("y", nbins=5)
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("latent dimension, by its divergence")
        axes.set_ylabel("KL divergence, nats")

    return draw(name, "Divergence of the latent dimensions, largest first", paint)


def bound_terms(name: str, steps: Sequence[BoundSteps]) -> str:
    """Bits a value of each step by the time it starts from, both axes logarithmic (Nichol and Dhariwal 2021, figure 2)."""
    told = [(one, (one.bits or 0.0) / one.steps) for one in steps]
    shown = [(one, bits) for one, bits in told if bits > 0]
    times = [math.sqrt(one.first * one.last) for one, _ in shown]
    bits = [value for _, value in shown]

    def paint(axes: Axes) -> None:
        axes.plot(times, bits, color=AFTER, marker="o", markersize=2.5, linewidth=1.2)
        make_logarithmic(axes, "x", float(min(one.first for one, _ in shown)), float(max(one.last for one, _ in shown)))
        make_logarithmic(axes, "y", min(bits), max(bits))
        axes.set_xlabel("time that the step starts from")
        axes.set_ylabel("bits a value, of one step")

    return draw(name, "Bits a value of each step of the diffusion model by its time", paint)


def code_lengths(name: str, bits: Sequence[tuple[str, float]]) -> str:
    """Bits of a value by the model and without it, a bar each; the first is the model's."""

    def paint(axes: Axes) -> None:
        places = np.arange(len(bits), dtype=np.float64)[::-1]
        values = [value for _, value in bits]
        axes.barh(places, values, color=[AFTER, *[BEFORE] * (len(bits) - 1)], height=0.5)
        for place, value in zip(places, values, strict=True):
            axes.text(max(value, 0.0) + 0.02 * max(values), place, f"{value:.2f}", va="center", color=INK)
        set_ticks(axes, "y", list(places), [label for label, _ in bits])
        axes.set_xlim(0, max(*values, 1e-9) * 1.18)
        axes.locator_params("x", nbins=5)
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("bits a value")

    return draw(name, "Bits a value takes by the model, as it is, and packed", paint)
