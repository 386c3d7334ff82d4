"""Configuration of the `quality` stage."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from kxbatch.spec.model import StageConfig

LEAVES = "quality"


class QualityConfig(StageConfig):
    """Measures how good made rows are, beside real ones."""

    leaves: ClassVar[str] = LEAVES

    kind: Literal["quality"] = "quality"
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="image, or number and vector columns; absent: the only vector column"
    )
    levels: int | None = Field(
        None, ge=2, description="values are whole numbers 0 to levels - 1; images have 256; absent: any"
    )
    classifier: str | None = Field(
        None,
        description="'stage:<name>' of a classifier stage, or the folder of its artifact; absent: features are the values",
    )
    class_column: str | None = Field(
        None, description="column with the class that a row should have; the classifier tells how many have it"
    )
    reference: str | None = Field(
        None,
        description="'stage:<name>' of a quality stage of the real rows, or the folder of its artifact; absent: these are the real "
        "rows",
    )
    held_out: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="of real rows: share, by id, that models have never learned from: their training.validation_share",
    )
    by: tuple[str, ...] = Field(
        (), description="columns whose values part the made rows into groups, each with its figures"
    )
    k: int = Field(3, ge=1, description="precision and recall: which neighbour tells how far a point reaches")
    rows: int = Field(
        10_000, ge=2, description="rows of a group that are measured, at most; those are chosen by their ids"
    )

    @field_validator("columns", "by", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fields_go_together(self) -> QualityConfig:
        if self.class_column is not None and self.classifier is None:
            raise ValueError(
                "class_column: without a classifier nobody tells what a row looks like; name one, or leave it out"
            )
        if self.reference is None and self.by:
            raise ValueError(
                "by: real rows are one group; groups are of rows that were made, and those need a reference"
            )
        return self
