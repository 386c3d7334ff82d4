"""Columns that go to a network in units of their own: numbers, vectors or one image, standardised or as levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.diffusion.scaling import Scaling
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import ColumnKind
from kxbatch.stages.numeric import LARGEST, Domain, check_kinds
from kxbatch.stages.numeric_facts import spread_in

MOST_UNITS = 1000.0  # of a value that is taken as it is: networks are made for deviation 1
Sizes = tuple[Annotated[int, Field(ge=1)], ...]


class ScaledColumns(StageConfig):
    """What a stage is told of the columns its network is of."""

    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="number and vector columns, or one image column; absent: the only vector column"
    )
    shape: Sizes | None = Field(
        None, min_length=2, max_length=3, description="height, width and channels of a vector that is an image"
    )
    scaling: Literal["standardize", "none", "levels"] | None = Field(
        None,
        description="standardize: by each value's mean and deviation; none: as they are; levels: whole numbers to [-1, 1]; "
        "absent: levels for images, else standardize",
    )
    levels: int | None = Field(
        None, ge=2, le=65536, description="of scaling = 'levels': values are 0 to levels - 1; absent: 256"
    )

    @field_validator("columns", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _columns_and_levels_go_together(self) -> ScaledColumns:
        if self.columns is not None and len(set(self.columns)) < len(self.columns):
            raise ValueError("columns names a column twice")
        if self.levels is not None and self.scaling != "levels":
            raise ValueError("levels go with scaling = 'levels'")
        return self

    def level_count(self, image: bool) -> int | None:
        """Levels that values have, of an image column or of others; None for real numbers."""
        if image:
            return 256
        return (self.levels or 256) if self.scaling == "levels" else None

    def domain(self, kind: pa.DataType) -> Domain:
        """What values are allowed in columns, the first of which is of this type."""
        levels = self.level_count(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        return Domain(levels, largest=MOST_UNITS if self.scaling == "none" else LARGEST)


def check_scaled_kinds(config: ScaledColumns, kinds: Mapping[str, ColumnKind]) -> None:
    """Numbers and vectors, or one image.

    Args:
        config: of the stage.
        kinds: of its data columns.

    Raises:
        ConfigError: they do not go together, or not with the scaling.
    """
    check_kinds(list(kinds), kinds)
    if "image" not in kinds.values():
        return
    if config.scaling not in (None, "levels"):
        raise ConfigError(f"scaling = '{config.scaling}': images are always scaled from their levels; leave it out")
    if config.levels is not None:
        raise ConfigError(f"levels = {config.levels}: images have 256; leave it out")


def scaling_of(config: ScaledColumns, columns: Sequence[str], facts: Arrays, levels: int | None) -> Scaling:
    """Units of the network.

    Args:
        config: of the stage.
        columns: its data columns.
        facts: of the surveys of all shards.
        levels: that values have; None for real numbers.

    Raises:
        DataError: there is no row to learn from.
    """
    spread = spread_in(facts)
    if levels is not None:
        return Scaling.of_levels(len(spread.mean), levels)
    if not spread.count.any():
        raise DataError(f"columns {', '.join(columns)}: no row to learn from")
    return Scaling.none(len(spread.mean)) if config.scaling == "none" else Scaling.standardising(spread)
