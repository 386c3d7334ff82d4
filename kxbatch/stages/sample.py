"""`sample`: rows that a trained model makes, numbered from 0. docs/sample.md has the formulas.

A sample is drawn by its number, so that it is the same whoever makes it, and whatever is made beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from kxbatch.data.images import CHANNELS, encode
from kxbatch.data.vectors import to_arrow
from kxbatch.errors import ConfigError
from kxbatch.spec.model import MakerConfig, StageConfig
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
from kxbatch.stages.vae import VaeConfig

if TYPE_CHECKING:
    from kxbatch.models.generation import Floats, Form, Generator

VAE = "density model"  # what stages leave whose models can make rows
IMAGE: Final = "image"
VECTOR: Final = "vector"
_MOST_SEED = 2**63 - 1


class SampleConfig(MakerConfig):
    """Draws samples from a model."""

    kind: Literal["sample"] = "sample"
    model: str = Field(description="'stage:<name>', or the folder of a model that a vae stage trained")
    batch_rows: int = Field(64, ge=1, description="samples that go through the model together; decides how they round")
    device: str = Field("auto", description="'cpu', 'cuda' or auto")


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
        """The samples, too: images or vectors, as the model is of."""
        images = [_makes_images(found, reads) for found, reads in taken.values()] or [_folder_form(config).is_image]
        return (*cls.adds(config), Column(IMAGE, IMAGE) if images[0] else Column(VECTOR, VECTOR))

    @classmethod
    def takes(cls, config: SampleConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its model, if one does."""
        return trained_stages((config.model, (VAE,)))

    def identity(self) -> dict[str, str]:
        """Digest of a model from outside the job."""
        if trained_stage(self.config.model) is not None:
            return {}
        from kxbatch.models.trained_vae import TrainedVae, vae_digest

        TrainedVae.read(Path(self.config.model))
        return {"model_digest": vae_digest(Path(self.config.model))}

    def open(self, context: Context) -> None:
        """Load the model.

        Raises:
            ConfigError: it cannot be loaded, or the seed does not fit its column.
        """
        from kxbatch.models.device import resolve_device
        from kxbatch.models.vae_generator import VaeGenerator

        if not 0 <= context.seed <= _MOST_SEED:
            raise ConfigError(f"job.seed = {context.seed}: samples are drawn with a seed from 0 to 2^63 - 1")
        folder = Path(trained_path(self.config.model, context))
        device = resolve_device(context.device(self.config.device))
        self._generator = VaeGenerator(folder, seed=context.seed, device=device)

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """The samples of these numbers."""
        from kxbatch.models.generation import make_rows

        sample_ids = table.column(SAMPLE_ID).to_numpy()
        made = make_rows(self._generator, sample_ids, self.config.batch_rows, context.threads)
        good = np.isfinite(made).all(axis=1)
        reasons = np.where(good, "", "not-finite").astype(object)
        form = self._generator.form
        columns = {
            SAMPLE_ID: pa.array(sample_ids[good]),
            "seed": pa.array(np.full(int(good.sum()), context.seed, np.int64)),
            IMAGE if form.is_image else VECTOR: _images(made[good], form) if form.is_image else to_arrow(made[good]),
        }
        words = {"not-finite": "the model made NaN or infinite values"}
        return Mapped(columns, rejections(table, reasons, words))


def _images(made: Floats, form: Form) -> pa.Array:
    """PNGs of values 0 to `levels - 1`, stretched to 8 bits."""
    assert form.shape is not None
    assert form.levels is not None
    pixels = np.rint(made.astype(np.float64) * (255 / (form.levels - 1))).clip(0, 255).astype(np.uint8)
    return pa.array([encode(row) for row in pixels.reshape(-1, *form.shape)], pa.binary())


def _makes_images(config: StageConfig, reads: Reads) -> bool:
    """What `vae_form` will say of the model that a stage is to train."""
    if not isinstance(config, VaeConfig) or config.level_count is None:
        return False
    if config.shape is None:
        return "image" in reads.kinds.values()
    return (*config.shape, 1)[2] in CHANNELS


def _folder_form(config: SampleConfig) -> Form:
    from kxbatch.models.trained_vae import TrainedVae
    from kxbatch.models.vae_generator import vae_form

    return vae_form(TrainedVae.read(Path(config.model)))


STAGE = Sample
