"""The figures of trainings: loss, rate, gradient and pace by step, and what is guessed at which length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.report.drawing import MUTED, draw, make_logarithmic, power_label, set_ticks
from kxbatch.report.strokes import EVERY_LINE, SMOOTHED, VALIDATION, Stroke
from kxbatch.report.training import Evaluation, Training
from kxbatch.report.wording import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Trace = Callable[["Axes", NDArray[np.int64], Array], None]
WIDE = (430, 250)  # points, of a figure that compares
MOST_POINTS = 600  # of a line; beyond that the least and the most of every stretch
SMOOTH_FROM = 40  # points from which on a line is smoothed
CEILING = 1.25  # times the largest first loss; what is above is cut off


@dataclass(frozen=True)
class Curve:
    """One line of a comparison; `broken` puts a cross at its end."""

    x: Array
    y: Array
    stroke: Stroke
    broken: bool = False


def thinned(y: Array, most: int = MOST_POINTS) -> NDArray[np.int64]:
    """Places of the points to draw: the first, the last, the least and the most of every stretch; all where they are few."""
    if len(y) <= most:
        return np.arange(len(y))
    stretches = np.array_split(np.arange(len(y)), (most - 2) // 2)
    extremes = [part[place] for part in stretches for place in (np.argmin(y[part]), np.argmax(y[part]))]
    return np.unique([0, *extremes, len(y) - 1])


def smoothed(y: Array) -> Array:
    """Running mean over a twentieth of the points; the first stays what it is, the last is the mean of those before it."""
    places = np.arange(len(y))
    reach = len(y) // 40
    first = np.maximum(places - reach, 0)
    last = np.minimum(places + np.minimum(reach, places), len(y) - 1)  # as far ahead as back, where a curve is steep
    sums = np.concatenate([[0.0], np.cumsum(y)])
    return np.asarray((sums[last + 1] - sums[first]) / (last - first + 1))


def loss(name: str, training: Training) -> str:
    """Loss by step of one stage: every line, a running mean where they are many, and validations."""
    steps, losses = training.points("loss")

    def paint(axes: Axes) -> None:
        _noisy(axes, steps, losses)
        checked, found = training.points("validation_loss")
        _line(axes, checked, found, VALIDATION, marker="s" if len(found) <= 30 else "")
        _cut(axes, [losses, found])
        if training.diverged is not None:
            axes.axvline(training.diverged, color=MUTED, linewidth=1.2, linestyle=(0, (1, 2)))
        _steps(axes)
        axes.set_ylabel("loss")

    return draw(name, "Loss by step, of training and of validation", paint)


def rate(name: str, training: Training) -> str:
    """Learning rate by step."""
    return _by_step(name, training, "rate", "learning rate", "Learning rate by step", _plain)


def pace(name: str, training: Training) -> str:
    """Tokens a second by step."""
    return _by_step(name, training, "tokens_per_second", "tokens/s", "Tokens a second by step", _noisy)


def gradient(name: str, training: Training) -> str:
    """Norm of the gradient by step, logarithmic."""
    steps, norms = training.points("gradient_norm")
    steps, norms = steps[norms > 0], norms[norms > 0]

    def paint(axes: Axes) -> None:
        _noisy(axes, steps, norms)
        make_logarithmic(axes, "y", float(norms.min()), float(norms.max()))
        _steps(axes)
        axes.set_ylabel("norm of the gradient")

    return draw(name, "Norm of the gradient by step, logarithmic", paint)


def losses(name: str, curves: Sequence[Curve], seconds: bool) -> str:
    """Loss of several stages, by step or by seconds of training; smoothed where there are many points."""

    def paint(axes: Axes) -> None:
        top = is_cut([curve.y for curve in curves]) or np.inf
        for at, curve in enumerate(curves):
            y = smoothed(curve.y) if len(curve.y) >= SMOOTH_FROM else curve.y
            # markers a sixth of the figure apart, not in one column for all
            _line(axes, curve.x, y, curve.stroke, markevery=(at / (6 * len(curves)), 1 / 6))
            if curve.broken:
                end = [min(y[-1], top)]
                axes.plot(
                    curve.x[-1:], end, "x", color=curve.stroke.color, ms=10, mew=2.4, clip_on=False, zorder=5, ls=""
                )
        _cut(axes, [curve.y for curve in curves])
        _steps(axes, "seconds of training" if seconds else "step")
        axes.set_ylabel("loss")

    width, height = WIDE
    return draw(name, f"Loss of the stages by {'seconds' if seconds else 'step'}", paint, height, width)


def is_cut(losses: Sequence[Array]) -> float | None:
    """Where the axis of these losses ends, if that is below one of them."""
    first = max((float(part[0]) for part in losses if len(part)), default=0.0)
    most = max((float(part.max()) for part in losses if len(part)), default=0.0)
    return CEILING * first if most > CEILING * first > 0 else None


def lengths(name: str, evaluations: Sequence[tuple[Evaluation, Stroke]]) -> str:
    """Accuracy by length, a line for each stage."""
    scores = [one for evaluation, _ in evaluations for one in evaluation.lengths if one.accuracy is not None]
    places = sorted({one.length for one in scores})
    trained = {evaluation.trained_at for evaluation, _ in evaluations}

    def paint(axes: Axes) -> None:
        for evaluation, stroke in evaluations:
            found = [(one.length, one.accuracy) for one in evaluation.lengths if one.accuracy is not None]
            axes.plot(*np.asarray(found, dtype=np.float64).reshape(-1, 2).T, **stroke.options)
        axes.set_xscale("log", base=2)
        shown = places[:: max(1, -(-len(places) // 8))]
        set_ticks(axes, "x", shown, [str(place) for place in shown])
        axes.set_xlim(places[0] / 1.15, places[-1] * 1.15)
        at = trained.pop() if len(trained) == 1 else None
        if at is not None and places[0] <= at <= places[-1]:
            axes.axvline(at, color=MUTED, linewidth=0.9, linestyle=(0, (1, 2)))
        axes.set_ylim(0, min(1.0, max(one.accuracy or 0.0 for one in scores) * 1.12) or 1.0)
        axes.locator_params("y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: percent(round(value, 6)))
        axes.set_xlabel("tokens of a sequence")
        axes.set_ylabel("guessed right")

    width, height = WIDE
    return draw(name, "Accuracy by length of the sequences", paint, height, width)


def _by_step(name: str, training: Training, measure: str, label: str, description: str, trace: Trace) -> str:
    steps, values = training.points(measure)

    def paint(axes: Axes) -> None:
        trace(axes, steps, values)
        axes.set_ylim(0, float(values.max()) * 1.12)
        axes.locator_params("y", nbins=5)
        axes.yaxis.set_major_formatter(lambda value, _: _short(value))
        _steps(axes)
        axes.set_ylabel(label)

    return draw(name, description, paint)


def _plain(axes: Axes, steps: NDArray[np.int64], y: Array) -> None:
    """Every point."""
    _line(axes, steps, y, SMOOTHED, marker="o" if len(y) < 3 else "")


def _noisy(axes: Axes, steps: NDArray[np.int64], y: Array) -> None:
    """Every point, and a running mean where they are many."""
    many = len(y) >= SMOOTH_FROM
    if many:
        _line(axes, steps, y, EVERY_LINE)
    _plain(axes, steps, smoothed(y) if many else y)


def _line(axes: Axes, x: NDArray[Any], y: Array, stroke: Stroke, **changes: Any) -> None:
    places = thinned(y)
    axes.plot(x[places], y[places], **{**stroke.options, **changes})


def _cut(axes: Axes, losses: Sequence[Array]) -> None:
    """End the axis where `is_cut` says."""
    top = is_cut(losses)
    if top is not None:
        lowest = min(float(part.min()) for part in losses if len(part))
        axes.set_ylim(lowest - 0.05 * (top - lowest), top)
    axes.locator_params("y", nbins=5)


def _steps(axes: Axes, label: str = "step") -> None:
    axes.locator_params("x", nbins=5, integer=True)
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.set_xlim(0, axes.dataLim.x1 * 1.03 or 1.0)
    axes.set_xlabel(label)


def _short(value: float) -> str:
    """A tick label: thousands as k and M, what is small as a power of ten."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return power_label(float(f"{value:.6g}")) if value > 0 else f"{value:g}"
