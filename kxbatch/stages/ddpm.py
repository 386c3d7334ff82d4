"""`ddpm`: trains a diffusion model, which turns noise into rows like those it has seen.

Ho, Jain and Abbeel (2020); Su (2022), "Generative diffusion", parts 1 to 4. The formulas are in docs/diffusion.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.errors import DataError
from kxbatch.stages.base import Column, ColumnKind, Context, Survey, TrainStage
from kxbatch.stages.class_column import check_class_kind, class_facts, combined_classes, read_classes
from kxbatch.stages.ddpm_config import DdpmConfig
from kxbatch.stages.numeric import Domain, read_numeric
from kxbatch.stages.numeric_facts import combined, numeric_facts
from kxbatch.stages.scaled_columns import check_scaled_kinds

if TYPE_CHECKING:
    from kxbatch.stages.task import Task


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
        check_scaled_kinds(config, {name: kind for name, kind in kinds.items() if name != config.class_column})
        if config.class_column is not None:
            check_class_kind(config.class_column, kinds)

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
        return self.config.domain(table.column(self.data_columns[0]).type)

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """All rows are alike in size; mean and deviation of the rows to learn from; the classes."""
        found = read_numeric(table, self.data_columns, self.domain(table))
        keys = row_keys(table.column("id").filter(pa.array(found.usable)).to_pylist())
        facts = numeric_facts(found, ~held_out(keys, self.training.validation_share))
        if self.config.class_column is not None:
            column = table.column(self.config.class_column).filter(pa.array(found.usable))
            facts |= class_facts(self.config.class_column, column)
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
        classes = combined_classes(column, each)
        if not read_classes(classes):
            raise DataError(f"class_column '{column}': no row has a class; leave it out, or fill it")
        return together | classes

    def task(self, context: Context) -> Task:
        """The model, and how rows become its batches."""
        from kxbatch.stages.tasks.ddpm import DdpmTask

        return DdpmTask(self, context)


STAGE = DdpmStage
