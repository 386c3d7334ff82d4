"""What a training stage left: its history, finished or not, and what was measured before and after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from kxbatch.data.storage import Folder
from kxbatch.report.loading import load, load_lines
from kxbatch.report.record import Measure, Numbers, Record, Run

STALLED = 0.98  # share of the first loss; a stage whose last tenth is above it counts as stalled
_NO_SETTINGS = {"name", "input", "keep", "resources", "model"}  # of a stage; its model is told by its architecture

Points = tuple[NDArray[np.int64], NDArray[np.float64]]


class Line(Record):
    """A line of the history: some steps, a validation, or the end of a loss that is no number.

    Attributes:
        loss: mean over the steps since the line before.
        rate: learning rate of the last of them; `gradient_norm` likewise, before clipping.
        tokens_per_second: over all processes, padding left out; `steps_per_second` counts training alone.
    """

    step: int
    loss: Measure = None
    rate: Measure = None
    gradient_norm: Measure = None
    steps_per_second: Measure = None
    tokens_per_second: Measure = None
    validation_loss: Measure = None
    validation_accuracy: Measure = None
    diverged: bool = False


class Facts(Record):
    """`training.json`. After an early stop or a divergence, `step` and `seconds` are those of the weights that are kept."""

    step: int
    status: str
    seconds: Measure = None
    tokens: int = 0
    steps: int | None = None
    world: int | None = None
    history: tuple[Line, ...] = ()
    architecture: dict[str, Any] = Field(default_factory=dict)


class LengthScore(Record):
    """How well masked tokens are guessed at one length."""

    length: int
    sequences: int = 0
    predicted: int = 0
    accuracy: Measure = None
    cross_entropy: Measure = None


class Evaluation(Record):
    """`evaluation.json`."""

    trained_at: int | None = None
    lengths: tuple[LengthScore, ...] = ()


class Start(Record):
    """`init.json`: rms of each branch of fresh weights over that of its input; how far one step of `step` moves the last state."""

    layers: int | None = None
    branch_ratio: Numbers = ()
    step: Measure = None
    one_step_change: Measure = None


@dataclass(frozen=True)
class Training:
    """One training stage.

    Attributes:
        name: of the stage.
        lines: the history so far.
        facts: what the training ended with; None while it has not.
        settings: architecture and configuration, flat, with dotted names.
    """

    name: str
    lines: tuple[Line, ...]
    facts: Facts | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    start: Start | None = None

    def points(self, measure: str) -> Points:
        """Steps and values of a measure, where the history has it."""
        found = [(line.step, value) for line in self.lines if (value := getattr(line, measure)) is not None]
        steps, values = zip(*found, strict=True) if found else ((), ())
        return np.asarray(steps, dtype=np.int64), np.asarray(values, dtype=np.float64)

    @property
    def last(self) -> Line | None:
        """The last line with a loss."""
        return next((line for line in reversed(self.lines) if line.loss is not None), None)

    @property
    def best(self) -> Line | None:
        """The validation with the smallest loss."""
        validations = [line for line in self.lines if line.validation_loss is not None]
        return min(validations, key=lambda line: line.validation_loss or 0.0, default=None)

    @property
    def step(self) -> int:
        """The last step the history tells of."""
        return max((line.step for line in self.lines), default=0)

    @property
    def diverged(self) -> int | None:
        """The step whose loss was no number."""
        return next((line.step for line in reversed(self.lines) if line.diverged), None)

    @cached_property
    def elapsed(self) -> Points | None:
        """Steps, and seconds of training up to each, validations and states left out; None where the pace is not known."""
        steps, pace = self.points("steps_per_second")
        if not len(steps) or not np.array_equal(steps, self.points("loss")[0]) or not np.all(pace > 0):
            return None
        return steps, np.cumsum(np.diff(steps, prepend=0) / pace)

    @property
    def seconds(self) -> float | None:
        """Of all steps, those too that were given up; None where it is not known."""
        if self.facts is not None and self.facts.status == "trained":
            return self.facts.seconds
        return float(self.elapsed[1][-1]) if self.elapsed else None

    @property
    def tokens_per_second(self) -> float | None:
        """Over all of those seconds."""
        if self.facts is not None and self.facts.status == "trained" and self.facts.seconds:
            return self.facts.tokens / self.facts.seconds
        steps, rates = self.points("tokens_per_second")
        if self.elapsed is None or not np.array_equal(steps, self.elapsed[0]):
            return None
        return float(np.average(rates, weights=np.diff(self.elapsed[1], prepend=0.0)))

    @property
    def remaining(self) -> float | None:
        """Mean loss over the last tenth of the steps, as a share of the first line's; None for less than two lines."""
        steps, losses = self.points("loss")
        if len(losses) < 2 or losses[0] <= 0:
            return None
        late = steps > 0.9 * steps[-1]
        return float(losses[late].mean() / losses[0])

    @property
    def stalled(self) -> bool:
        """Whether it ended about where it began."""
        over = self.facts is not None and self.diverged is None
        return over and self.remaining is not None and self.remaining >= STALLED

    @property
    def words(self) -> str:
        """How it ended."""
        if self.diverged is not None:
            return f"diverged at step {self.diverged}"
        if self.facts is None:
            return f"not finished, at step {self.step}"
        early = f" at step {self.step}" if self.facts.status == "stopped early" else ""
        return f"{self.facts.status}{early}{', stalled' if self.stalled else ''}"


def read_trainings(output: Folder, run: Run) -> Iterator[Training]:
    """Every training stage of a run that has a history or a result.

    Raises:
        DataError: a file is not what a training writes.
    """
    for stage in run.training_stages():
        name = str(stage.get("name"))
        artifact = output.child(name, "_artifact")
        facts = load(artifact, "training.json", Facts)
        lines = load_lines(output.child(name, "_training"), "history.jsonl", Line)
        if facts is not None and (not lines or _same(lines, facts.history)):
            evaluation, start = load(artifact, "evaluation.json", Evaluation), load(artifact, "init.json", Start)
            yield Training(name, facts.history, facts, _settings(stage, facts.architecture), evaluation, start)
        elif lines:  # of a training that has no result yet; the artifact, where there is one, is of an earlier one
            yield Training(name, tuple(lines), None, _settings(stage, stage.get("model") or {}))


def differing(trainings: Sequence[Training]) -> list[str]:
    """Names of the settings in which trainings differ, in the order of the settings."""
    names = dict.fromkeys(name for training in trainings for name in training.settings)
    told = {name: [t.settings[name] for t in trainings if name in t.settings] for name in names}
    return [name for name, values in told.items() if any(value != values[0] for value in values)]


def _same(lines: Sequence[Line], history: Sequence[Line]) -> bool:
    """Whether two histories are one; a warning, which is in the file alone, tells nothing that is compared."""
    empty = Line(step=0).model_dump(exclude={"step"})
    told = [line for line in lines if line.model_dump(exclude={"step"}) != empty]
    return told == [line for line in history if line.model_dump(exclude={"step"}) != empty]


def _settings(stage: Mapping[str, Any], architecture: Mapping[str, Any]) -> dict[str, Any]:
    rest = {key: value for key, value in stage.items() if key not in _NO_SETTINGS}
    return {**architecture, **dict(_flat(rest, ""))}


def _flat(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
