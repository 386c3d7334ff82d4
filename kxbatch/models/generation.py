"""Models that make rows: what `sample` wants of one, whatever it is made of, and how samples become batches.

A sample is a function of the model, the settings, its number and the number of rows in a batch, and of nothing else. torch rounds a
row by its place in a batch and by the batch's size; so a batch begins at a multiple of `batch_rows` and is always whole, and
samples in it that nobody asked for are made in vain.

Letters: B samples of a batch, R samples asked for, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from kxbatch.data.images import fits_png
from kxbatch.models.device import run_batches

Floats = npt.NDArray[np.float32]
Ids = npt.NDArray[np.int64]


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

    def generate(self, sample_ids: Sequence[int]) -> Floats:
        """A batch.

        Args:
            sample_ids: B numbers of samples, 0 or more; all noise of a sample is drawn by its number.

        Returns:
            float32 [B, D]; a value that is not finite says that the sample failed.
        """
        ...

    def told(self, sample_ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """What samples are drawn with: name of a column -> one value for each of R numbers of samples."""
        ...


def make_rows(generator: Generator, sample_ids: Ids, batch_rows: int, threads: int) -> Floats:
    """Samples by their numbers.

    Args:
        generator: the model.
        sample_ids: int64 [R].
        batch_rows: B; it decides how results are rounded.
        threads: of a CPU; a batch has one of them, so their number changes nothing.

    Returns:
        float32 [R, D].
    """
    batches = np.unique(sample_ids // batch_rows)
    made = np.empty((len(sample_ids), generator.form.values), np.float32)

    def work(number: int) -> None:
        start = int(batches[number]) * batch_rows
        rows = np.flatnonzero(sample_ids // batch_rows == batches[number])
        made[rows] = generator.generate(range(start, start + batch_rows))[sample_ids[rows] - start]

    run_batches(work, len(batches), threads, generator.device)
    return made
