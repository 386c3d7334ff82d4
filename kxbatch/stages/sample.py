"""`sample`: rows that a trained model makes, numbered from 0. docs/sample.md has the formulas.

A sample is drawn by its number, so that it is the same whoever makes it, and whatever is made beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.images import encode
from kxbatch.data.vectors import to_arrow
from kxbatch.errors import ConfigError
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import (
    SAMPLE_ID,
    Column,
    Context,
    Mapped,
    Reads,
    Stage,
    trained_path,
    trained_stage,
    trained_stages,
)
from kxbatch.stages.rows import rejections
from kxbatch.stages.sample_config import SampleConfig, is_diffusion, of_folder, of_stage

if TYPE_CHECKING:
    from kxbatch.models.generation import Floats, Form, Generator

MODELS = ("density model", "diffusion model")  # what stages leave that can make rows
IMAGE: Final = "image"
VECTOR: Final = "vector"
_MOST_SEED = 2**63 - 1


class Sample(Stage[SampleConfig]):
    """A sample with a value that is not finite is set aside."""

    config_type = SampleConfig
    _generator: Generator

    @property
    def draws(self) -> bool:
        """All noise."""
        return True

    @classmethod
    def reads(cls, config: SampleConfig) -> Column:
        """The numbers of the samples."""
        return Column(SAMPLE_ID, "number")

    @classmethod
    def adds(cls, config: SampleConfig) -> tuple[Column, ...]:
        """What every model's samples have."""
        return (Column(SAMPLE_ID, "number"), Column("seed", "number"))

    @classmethod
    def adds_with(cls, config: SampleConfig, taken: Mapping[str, tuple[StageConfig, Reads]]) -> tuple[Column, ...]:
        """The samples, too, images or vectors as the model is of; and what they are drawn with."""
        trains = next(iter(taken.values()), None)
        outlook = of_stage(config, *trains) if trains is not None else of_folder(config)[0]
        found = [*cls.adds(config), Column(IMAGE, IMAGE) if outlook.image else Column(VECTOR, VECTOR)]
        if outlook.diffusion:
            found += [Column("steps", "number")]
            found += [Column("eta", "number")] if config.solver in (None, "ddim") else []
            found += [Column("variance", "number")] if config.solver == "ddpm" else []
            found += [Column("guidance", "number"), Column("class", "text")] if outlook.classes else []
        if config.latents is not None:
            found += [Column("latents", "text"), Column("k_occurrence", "number"), Column("acceptance", "number")]
        return tuple(found)

    @classmethod
    def takes(cls, config: SampleConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its model, if one does."""
        return trained_stages((config.model, MODELS))

    def identity(self) -> dict[str, str]:
        """Digest of a model from outside the job."""
        return {} if trained_stage(self.config.model) is not None else {"model_digest": of_folder(self.config)[1]}

    def open(self, context: Context) -> None:
        """Load the model.

        Raises:
            ConfigError: it cannot be loaded, or the seed does not fit its column.
        """
        from kxbatch.models.device import resolve_device

        if not 0 <= context.seed <= _MOST_SEED:
            raise ConfigError(f"job.seed = {context.seed}: samples are drawn with a seed from 0 to 2^63 - 1")
        folder = Path(trained_path(self.config.model, context))
        self._generator = _generator(
            self.config, folder, context.seed, resolve_device(context.device(self.config.device))
        )

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """The samples of these numbers."""
        from kxbatch.models.generation import make_rows

        sample_ids = table.column(SAMPLE_ID).to_numpy()
        made = make_rows(self._generator, sample_ids, self.config.batch_rows, context.threads)
        good = np.isfinite(made.values).all(axis=1)
        reasons = np.where(good, "", "not-finite").astype(object)
        form, kept = self._generator.form, made.take(np.flatnonzero(good))
        columns = {
            SAMPLE_ID: pa.array(sample_ids[good]),
            IMAGE if form.is_image else VECTOR: _images(kept.values, form) if form.is_image else to_arrow(kept.values),
            "seed": pa.array(np.full(int(good.sum()), context.seed, np.int64)),
        }
        told = {name: _column(values) for name, values in kept.columns.items()}
        words = {"not-finite": "the model made NaN or infinite values"}
        return Mapped(columns | told, rejections(table, reasons, words))


def _generator(config: SampleConfig, folder: Path, seed: int, device: str) -> Generator:
    if is_diffusion(folder):
        from kxbatch.models.diffusion.generator import DiffusionGenerator
        from kxbatch.models.diffusion.trained import TrainedDiffusion

        model = TrainedDiffusion.load(folder, which=config.weights or "average", device=device)
        return DiffusionGenerator(model, config.samplings, config.chosen_latents, seed)
    from kxbatch.models.vae_generator import VaeGenerator

    return VaeGenerator(folder, config.chosen_latents, seed=seed, device=device)


def _column(values: npt.NDArray[Any]) -> pa.Array:
    """Texts, or numbers; -1 is none."""
    if values.dtype == object:
        return pa.array(values, pa.string())
    return pa.array(values, mask=values == -1)


def _images(made: Floats, form: Form) -> pa.Array:
    """PNGs of values 0 to `levels - 1`, stretched to 8 bits."""
    assert form.shape is not None
    assert form.levels is not None
    pixels = np.rint(made.astype(np.float64) * (255 / (form.levels - 1))).clip(0, 255).astype(np.uint8)
    return pa.array([encode(row) for row in pixels.reshape(-1, *form.shape)], pa.binary())


STAGE = Sample
