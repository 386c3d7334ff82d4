"""Models that make rows: what `sample` wants of one, whatever it is made of, and how samples become batches.

A sample is a function of the model, the settings, its number and the number of rows in a batch, and of nothing else. torch rounds a
row by its place in a batch and by the batch's size; so a batch begins at a multiple of `batch_rows` and is always whole, and
samples in it that nobody asked for are made in vain.

Letters: B samples of a batch, R samples asked for, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from kxbatch.data.images import fits_png
from kxbatch.models.device import run_batches

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]
T = TypeVar("T")


@dataclass(frozen=True)
class Form:
    """What a model's samples are.

    Attributes:
        values: D.
        shape: height, width and channels of images, D laid out in this order; None for vectors.
        levels: of images: values are 0 to `levels - 1`. Of vectors None.
    """

    values: int
    shape: tuple[int, int, int] | None = None
    levels: int | None = None

    @property
    def is_image(self) -> bool:
        """Whether a sample is one."""
        return self.shape is not None


def form_of(values: int, shape: tuple[int, int, int] | None, levels: int | None) -> Form:
    """Images of a model that knows their shape and their levels, which a PNG can hold; vectors of all others."""
    return Form(values, shape, levels) if fits_png(shape[2] if shape else None, levels) else Form(values)


@dataclass(frozen=True, eq=False)
class Made:
    """Samples, and what they were drawn with.

    Attributes:
        values: float32 [B, D]; a value that is not finite says that the sample failed.
        columns: one value for each of them, [B], by name: text, numbers, or whole numbers of which -1 means none.
    """

    values: Floats
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)

    def take(self, places: Ids) -> Made:
        """Some of them, int64 [R]."""
        return Made(self.values[places], {name: column[places] for name, column in self.columns.items()})


class Generator(Protocol):
    """A model with its settings, on its device."""

    @property
    def form(self) -> Form:
        """What its samples are."""
        ...

    @property
    def device(self) -> str:
        """Kind of device: `cpu` or `cuda`."""
        ...

    def generate(self, sample_ids: Sequence[int]) -> Made:
        """A whole batch.

        Args:
            sample_ids: B numbers of samples, 0 or more, in a row; all noise of a sample is drawn by its number.
        """
        ...


def turn(sample_ids: Sequence[int], settings: Sequence[T]) -> T:
    """What a batch is drawn with: batches take the settings in turn."""
    return settings[sample_ids[0] // len(sample_ids) % len(settings)]


def make_rows(generator: Generator, sample_ids: Ids, batch_rows: int, threads: int) -> Made:
    """Samples by their numbers.

    Args:
        generator: the model.
        sample_ids: int64 [R], R at least 1.
        batch_rows: B; it decides how results are rounded.
        threads: of a CPU; a batch has one of them, so their number changes nothing.

    Returns:
        R samples, in the order asked for.
    """
    batches, batch_of = np.unique(sample_ids // batch_rows, return_inverse=True)
    parts: list[Made | None] = [None] * len(batches)

    def work(number: int) -> None:
        start = int(batches[number]) * batch_rows
        whole = generator.generate(range(start, start + batch_rows))
        parts[number] = whole.take(sample_ids[batch_of == number] - start)

    run_batches(work, len(batches), threads, generator.device)
    asked = np.argsort(np.argsort(batch_of, kind="stable"), kind="stable")
    return _joined([part for part in parts if part is not None]).take(asked)


def _joined(parts: Sequence[Made]) -> Made:
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    return Made(np.concatenate([part.values for part in parts]), columns)
