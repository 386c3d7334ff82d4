"""`ddpm`: trains a diffusion model, which turns noise into rows like those it has seen.

Ho, Jain and Abbeel (2020); Su (2022), "Generative diffusion", parts 1 to 4. The formulas are in docs/diffusion.md.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.errors import ConfigError, DataError
from kxbatch.stages.base import Column, ColumnKind, Context, Survey, TrainStage
from kxbatch.stages.ddpm_config import DdpmConfig
from kxbatch.stages.numeric import LARGEST, Domain, check_kinds, read_numeric
from kxbatch.stages.numeric_facts import combined, numeric_facts

if TYPE_CHECKING:
    from kxbatch.stages.task import Task

MOST_CLASSES = 10_000  # of more, a column is something else: an id, a number that was measured
MOST_UNITS = 1000.0  # of a value that is taken as it is: noise has deviation 1
_CLASSES = "classes"
ClassName = str | int


class DdpmStage(TrainStage[DdpmConfig]):
    """Rows that are no numbers, or not in the range, and images unlike the others are set aside."""

    config_type = DdpmConfig

    @classmethod
    def reads(cls, config: DdpmConfig) -> Column:
        """The first of its columns."""
        return Column(config.columns[0] if config.columns else None, "vector", ("number", "image"))

    @classmethod
    def also_reads(cls, config: DdpmConfig) -> tuple[str, ...]:
        """The other ones, and the classes."""
        return ((config.columns or ())[1:]) + ((config.class_column,) if config.class_column else ())

    @classmethod
    def check_columns(cls, config: DdpmConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Numbers and vectors, or one image; classes that are texts or whole numbers."""
        check_kinds([name for name in kinds if name != config.class_column], kinds)
        image = "image" in [kind for name, kind in kinds.items() if name != config.class_column]
        if image and config.scaling not in (None, "levels"):
            raise ConfigError(f"scaling = '{config.scaling}': images are always scaled from their levels; leave it out")
        if image and config.levels is not None:
            raise ConfigError(f"levels = {config.levels}: images have 256; leave it out")
        kind = kinds.get(config.class_column) if config.class_column else None
        if kind not in (None, "text", "number"):
            raise ConfigError(f"class_column: '{config.class_column}' is no text or number column but {kind}")

    @property
    def data_columns(self) -> tuple[str, ...]:
        """The columns the model is of."""
        return self.config.columns or (self.column,)

    @property
    def survey_depends_on(self) -> tuple[str, ...]:
        """What decides which rows go through, their spread and their classes."""
        return ("columns", "class_column", "scaling", "levels")

    def domain(self, table: pa.Table) -> Domain:
        """What values are allowed in the columns of a table."""
        kind = table.column(self.data_columns[0]).type
        levels = self.config.level_count(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
        return Domain(levels, largest=MOST_UNITS if self.config.scaling == "none" else LARGEST)

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """All rows are alike in size; mean and deviation of the rows to learn from; the classes."""
        found = read_numeric(table, self.data_columns, self.domain(table))
        keys = row_keys(table.column("id").filter(pa.array(found.usable)).to_pylist())
        facts = numeric_facts(found, ~held_out(keys, self.training.validation_share))
        if self.config.class_column is not None:
            column = table.column(self.config.class_column).filter(pa.array(found.usable))
            facts |= _packed(distinct_classes(self.config.class_column, column))
        return Survey(np.ones(int(found.usable.sum()), np.int32), found.rejected, facts=facts)

    def combine(self, facts: Iterator[Arrays]) -> Arrays:
        """Of all shards.

        Raises:
            DataError: they do not agree about widths and shape, or there are too many classes, or none.
        """
        each = list(facts)
        together, column = combined(each, self.data_columns), self.config.class_column
        if column is None or not together:
            return together
        classes = {name for one in each for name in read_classes(one)}
        _check_number(column, len(classes))
        if not classes:
            raise DataError(f"class_column '{column}': no row has a class; leave it out, or fill it")
        return together | _packed(sorted(classes))

    def task(self, context: Context) -> Task:
        """The model, and how rows become its batches."""
        from kxbatch.stages.tasks.ddpm import DdpmTask

        return DdpmTask(self, context)


def distinct_classes(name: str, column: pa.ChunkedArray) -> list[ClassName]:
    """The classes of a column, sorted; a null is no class.

    Raises:
        DataError: the column holds neither texts nor whole numbers, or too many different ones.
    """
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"class_column '{name}' has type {kind}; classes are texts or whole numbers")
    different = pc.unique(column.drop_null())
    _check_number(name, len(different))
    return sorted(different.to_pylist())


def class_numbers(column: pa.ChunkedArray, classes: tuple[ClassName, ...]) -> npt.NDArray[np.int64]:
    """The place of each row's class among `classes`, int64 [n]; `len(classes)` for a null."""
    places = {name: number for number, name in enumerate(classes)}
    return np.array([places.get(name, len(classes)) for name in column.to_pylist()], np.int64)


def read_classes(facts: Arrays) -> tuple[ClassName, ...]:
    """The classes that surveys found; empty where none were sought."""
    return tuple(json.loads(bytes(facts[_CLASSES]))) if _CLASSES in facts else ()


def _packed(classes: list[ClassName]) -> Arrays:
    return {_CLASSES: np.frombuffer(json.dumps(classes).encode(), np.uint8)}


def _check_number(column: str, found: int) -> None:
    if found > MOST_CLASSES:
        raise DataError(
            f"class_column '{column}' has {found} different values, and {MOST_CLASSES} are allowed; a class is something that "
            "many rows have in common"
        )


STAGE = DdpmStage
