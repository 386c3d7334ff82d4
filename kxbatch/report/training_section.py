"""The section on trainings: which figures there are, what their legends say, and what the tables hold."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from kxbatch.report import training_figures as figures
from kxbatch.report.elements import Figure, Key, Tile
from kxbatch.report.strokes import EVERY_LINE, SMOOTHED, STAGES, VALIDATION, Stroke
from kxbatch.report.training import STALLED, Evaluation, Training, differing
from kxbatch.report.wording import NONE, number, percent


@dataclass(frozen=True)
class Comparison:
    """Figures with a line for each of a few stages, and the legend that they share."""

    keys: tuple[Key, ...]
    figures: tuple[Figure, ...]


@dataclass(frozen=True)
class Section:
    """What the template puts down.

    Attributes:
        trainings: in job order.
        figures: of each of them.
        comparisons: of all of them, as many at once as lines can be told apart; none for one training.
        settings: names of what the trainings differ in.
        length_figures: accuracy by length.
        lengths: lengths at which any of them was evaluated.
        branches: most branches in any report of fresh weights.
        stalled: what counts as stalled, in words.
    """

    trainings: tuple[Training, ...]
    figures: tuple[tuple[Figure, ...], ...]
    comparisons: tuple[Comparison, ...]
    settings: tuple[str, ...]
    length_figures: tuple[Figure, ...]
    lengths: tuple[int, ...]
    branches: int
    stalled: str


def section(trainings: Sequence[Training]) -> Section:
    """Choose what is shown of these trainings."""
    several = len(trainings) > 1
    evaluated = {one.length for t in trainings if t.evaluation for one in t.evaluation.lengths}
    return Section(
        tuple(trainings),
        tuple(tuple(_own_figures(f"training-{at}", one)) for at, one in enumerate(trainings)),
        tuple(_comparisons(trainings)) if several else (),
        tuple(differing(trainings)) if several else (),
        tuple(_by_length(trainings)),
        tuple(sorted(evaluated)),
        max((len(t.start.branch_ratio) for t in trainings if t.start), default=0),
        f"Stalled: the mean loss over the last tenth of the steps is {percent(STALLED)} or more of the first line's. A stage "
        "that learned nothing but how frequent words are is not told by that.",
    )


def tiles(trainings: Sequence[Training]) -> Iterator[Tile]:
    """Two numbers of a job's only training."""
    if len(trainings) != 1:
        return
    (training,) = trainings
    best, last = training.best, training.last
    if best is not None:
        yield Tile("Validation loss", "score", (best.validation_loss,), f"the best, at step {number(best.step)}")
        if best.validation_accuracy is not None:
            yield Tile("Accuracy", "percent", (best.validation_accuracy,), "of the same validation")
    elif last is not None:
        yield Tile("Training loss", "score", (last.loss,), f"at step {number(last.step)}")


def setting(training: Training, name: str) -> str:
    """A setting in the words of a job file; a dash where it is not set or not known."""
    value: Any = training.settings.get(name)
    return NONE if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _own_figures(name: str, training: Training) -> Iterator[Figure]:
    losses, checked = training.points("loss")[1], training.points("validation_loss")[1]
    if len(losses) or len(checked):
        svg = Markup(figures.loss(f"{name}-loss", training))
        many = len(losses) >= figures.SMOOTH_FROM
        keys = [Key("", "every line", sample=EVERY_LINE.sample)] if many else []
        keys.append(Key("", "running mean" if many else "training", sample=SMOOTHED.sample))
        if len(checked):
            keys.append(Key("", "validation", sample=VALIDATION.sample))
        caption = f"Mean over the steps since the line before.{_cut_words([losses, checked])}"
        if training.diverged is not None:
            caption += " The dotted line is the step whose loss or gradient was no number."
        yield Figure("Loss", svg, caption, tuple(keys))
    for measure, title, paint, caption in (
        ("rate", "Learning rate", figures.rate, "As the schedule gives it."),
        ("gradient_norm", "Norm of the gradient", figures.gradient, "Before clipping, at the steps that were logged."),
        ("tokens_per_second", "Tokens a second", figures.pace, "Over all processes, padding left out."),
    ):
        if training.points(measure)[1].max(initial=0.0) > 0:
            blue = " Blue is a running mean." if measure != "rate" and len(losses) >= figures.SMOOTH_FROM else ""
            yield Figure(title, Markup(paint(f"{name}-{measure}", training)), caption + blue)


def _comparisons(trainings: Sequence[Training]) -> Iterator[Comparison]:
    for start, styled in _styled(trainings):
        keys = tuple(Key("", training.name, sample=stroke.sample) for training, stroke in styled)
        yield Comparison(keys, tuple(_compared(f"trainings-{start}", styled)))


def _compared(name: str, styled: Sequence[tuple[Training, Stroke]]) -> Iterator[Figure]:
    by_step, by_seconds = [], []
    for training, stroke in styled:
        steps, losses = training.points("loss")
        broken = training.diverged is not None
        if len(losses):
            by_step.append(figures.Curve(steps.astype(float), losses, stroke, broken))
        if training.elapsed is not None:
            by_seconds.append(figures.Curve(training.elapsed[1], losses, stroke, broken))
    words = _smooth_words(by_step)
    if by_step:
        yield Figure("Loss by step", Markup(figures.losses(f"{name}-steps", by_step, seconds=False)), words)
    if by_seconds:
        svg = Markup(figures.losses(f"{name}-seconds", by_seconds, seconds=True))
        yield Figure(
            "Loss by time", svg, "Validations and checkpoints are left out of the seconds. Otherwise as by step."
        )


def _by_length(trainings: Sequence[Training]) -> Iterator[Figure]:
    for start, styled in _styled(trainings):
        scored = [(t, t.evaluation, stroke) for t, stroke in styled if t.evaluation and _scored(t.evaluation)]
        if not scored:
            continue
        svg = figures.lengths(f"lengths-{start}", [(evaluation, stroke) for _, evaluation, stroke in scored])
        keys = tuple(Key("", training.name, sample=stroke.sample) for training, _, stroke in scored)
        caption = _lengths_words([evaluation for _, evaluation, _ in scored])
        yield Figure("Guessed right, by length", Markup(svg), caption, keys if len(trainings) > 1 else ())


def _styled(trainings: Sequence[Training]) -> Iterator[tuple[int, list[tuple[Training, Stroke]]]]:
    """Trainings with the lines they get, as many at once as can be told apart."""
    for start in range(0, len(trainings), len(STAGES)):
        yield start, list(zip(trainings[start : start + len(STAGES)], STAGES, strict=False))


def _smooth_words(curves: Sequence[figures.Curve]) -> str:
    many = any(len(curve.y) >= figures.SMOOTH_FROM for curve in curves)
    mean = "Running mean over a twentieth of the lines." if many else "Mean over the steps since the line before."
    cross = " A cross ends a stage that diverged." if any(curve.broken for curve in curves) else ""
    return mean + cross + _cut_words([curve.y for curve in curves])


def _cut_words(losses: Sequence[figures.Array]) -> str:
    top = figures.is_cut(losses)
    return "" if top is None else f" What is above {number(top)} is cut off."


def _lengths_words(evaluations: Sequence[Evaluation]) -> str:
    trained = {one.trained_at for one in evaluations}
    at = trained.pop() if len(trained) == 1 else None
    words = "Masked tokens guessed right in held-out texts, joined and cut to each length."
    return words if at is None else f"{words} The dotted line is the length trained at, {at}."


def _scored(evaluation: Evaluation) -> bool:
    return any(one.accuracy is not None for one in evaluation.lengths)
