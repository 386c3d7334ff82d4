"""`vae`: trains a variational autoencoder, from which the `density` stage has log p(x) of every row.

Kingma and Welling (2014); importance-weighted: Burda, Grosse and Salakhutdinov (2016). The formulas are in docs/density.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.data.images import IMAGE_LEVELS
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.errors import ConfigError
from kxbatch.spec.model import StageConfig
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Column, ColumnKind, Context, Survey, TrainStage
from kxbatch.stages.numeric import Domain, Nulls, check_kinds, read_numeric
from kxbatch.stages.numeric_facts import combined, numeric_facts
from kxbatch.stages.rows import chosen_rows

if TYPE_CHECKING:
    from kxbatch.stages.task import Task

Sizes = tuple[Annotated[int, Field(ge=1)], ...]
_PLAN = ("columns", "likelihood", "levels", "shape", "nulls", "fit_on")


class VaeConfig(StageConfig):
    """Trains a model of densities on numbers, vectors or images."""

    leaves: ClassVar[str] = "density model"

    kind: Literal["vae"] = "vae"
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="number and vector columns, or one image column; absent: the only vector column"
    )
    fit_on: str | None = Field(None, description="boolean column: only its true rows are learned from; absent: all")
    likelihood: Literal["gaussian", "bernoulli", "discretised-logistic"] = Field(
        "gaussian", description="gaussian: real numbers; bernoulli: 0 and 1; discretised-logistic: whole levels"
    )
    levels: int | None = Field(
        None, ge=2, le=65536, description="discretised-logistic: values are 0 to levels - 1; absent: 256"
    )
    scale: Literal["fixed", "shared", "per-dimension", "predicted"] = Field(
        "per-dimension",
        description="where the likelihood's scale comes from; predicted: from the decoder, for each value and row",
    )
    scale_size: float | None = Field(
        None, gt=0, description="the fixed scale, or the first one, in standard deviations of a value, or in levels"
    )
    scale_floor: float | None = Field(None, gt=0, description="the smallest scale, in the same units")
    transform: Literal["none", "standardize", "asinh"] = Field(
        "standardize",
        description="gaussian: by each value's mean and deviation; asinh: then bend far values in, for heavy tails",
    )
    nulls: Nulls = Field("refuse", description="a null number: set the row aside, or take the mean in its place")
    shape: Sizes | None = Field(
        None, min_length=2, max_length=3, description="height, width and channels of a vector that is an image"
    )
    network: Literal["mlp", "conv"] = Field("mlp", description="perceptrons, or convolutions for images")
    hidden: Sizes = Field(
        (200, 200),
        min_length=1,
        description="widths of the hidden layers; conv: channels, each of which halves the image",
    )
    activation: Literal["relu", "gelu", "tanh", "silu"] = Field("gelu", description="after each hidden layer")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the encoder's hidden layers")
    latent: int = Field(16, ge=1, description="latent dimensions")
    importance_samples: int = Field(1, ge=1, description="M of the bound that is trained: 1 is the VAE, more the IWAE")
    doubly_reparameterised: bool = Field(
        False, description="the gradient of Tucker et al. (2019), which stays sharp for many samples"
    )
    kl_warmup: float = Field(0.0, ge=0, description="epochs over which the weight of the KL rises to 1")
    free_bits: float = Field(0.0, ge=0, description="nats of KL that a latent dimension has free; one sample only")
    training: TrainingConfig = TrainingConfig(validation_share=0.1)

    @field_validator("columns", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fields_go_together(self) -> VaeConfig:
        if self.levels is not None and self.likelihood != "discretised-logistic":
            raise ValueError(f"levels go with likelihood = 'discretised-logistic', not with '{self.likelihood}'")
        if self.nulls == "impute" and self.likelihood != "gaussian":
            raise ValueError("nulls = 'impute' needs likelihood = 'gaussian': there is no mean level")
        if self.nulls == "impute" and self.transform == "none":
            raise ValueError(
                "nulls = 'impute' needs transform = 'standardize' or 'asinh': else the model knows no mean"
            )
        if self.free_bits and self.importance_samples > 1:
            raise ValueError("free_bits needs importance_samples = 1: several samples have one bound together")
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice")
        return self

    @property
    def level_count(self) -> int | None:
        """Levels that values have; None for real numbers."""
        return {"gaussian": None, "bernoulli": 2}.get(self.likelihood, self.levels or 256)


class VaeStage(TrainStage[VaeConfig]):
    """Rows that are no numbers, or not in the likelihood's range, are set aside."""

    config_type = VaeConfig

    @classmethod
    def reads(cls, config: VaeConfig) -> Column:
        """The first of its columns."""
        return Column(config.columns[0] if config.columns else None, "vector", ("number", "image"))

    @classmethod
    def also_reads(cls, config: VaeConfig) -> tuple[str, ...]:
        """The other ones, and the one that tells which rows are learned from."""
        return ((config.columns or ())[1:]) + ((config.fit_on,) if config.fit_on else ())

    @classmethod
    def check_columns(cls, config: VaeConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Numbers and vectors, or one image, whose values are 8-bit numbers."""
        check_kinds([name for name in kinds if name != config.fit_on], kinds)
        if (config.level_count or 0) > IMAGE_LEVELS and "image" in kinds.values():
            raise ConfigError(f"levels = {config.level_count}: images have at most {IMAGE_LEVELS} levels")

    @property
    def data_columns(self) -> tuple[str, ...]:
        """The columns the model is of."""
        return self.config.columns or (self.column,)

    @property
    def survey_depends_on(self) -> tuple[str, ...]:
        """What decides which rows go through, and their spread."""
        return _PLAN

    @property
    def domain(self) -> Domain:
        """What values are allowed."""
        return Domain(self.config.level_count, self.config.nulls)

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """All rows are alike in size; mean and deviation of the rows to learn from."""
        found = read_numeric(table, self.data_columns, self.domain)
        learns = fitted_rows(table, self.config.fit_on)
        passed = np.flatnonzero(found.usable & ~learns)
        keys = row_keys(table.column("id").filter(pa.array(found.usable)).to_pylist())
        seen = learns[found.usable] & ~held_out(keys, self.training.validation_share)
        facts = numeric_facts(found, seen)
        sizes = np.ones(int((found.usable & learns).sum()), np.int32)
        return Survey(sizes, found.rejected, passed, facts)

    def combine(self, facts: Iterator[Arrays]) -> Arrays:
        """Of all shards; they must agree about widths and shape.

        Raises:
            DataError: they do not.
        """
        return combined(facts, self.data_columns)

    def task(self, context: Context) -> Task:
        """The model, and how rows become its batches."""
        from kxbatch.stages.tasks.vae import VaeTask

        return VaeTask(self, context)


def fitted_rows(table: pa.Table, column: str | None) -> npt.NDArray[np.bool_]:
    """Which rows a model may learn from, bool [n]; a null says no.

    Raises:
        DataError: the column is not boolean.
    """
    return chosen_rows(table, column, "fit_on")


STAGE = VaeStage
