"""`classifier`: trains a small network that tells the class of a row, for samples of other models to be judged by.

The formulas are in docs/classifier.md.
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
from kxbatch.stages.classifier_config import ClassifierConfig
from kxbatch.stages.numeric import Domain, read_numeric
from kxbatch.stages.numeric_facts import combined, numeric_facts
from kxbatch.stages.scaled_columns import check_scaled_kinds

if TYPE_CHECKING:
    from kxbatch.stages.task import Task


class ClassifierStage(TrainStage[ClassifierConfig]):
    """Rows that are no numbers, or not in the range, and images unlike the others are set aside; those of no class are passed."""

    config_type = ClassifierConfig

    @classmethod
    def reads(cls, config: ClassifierConfig) -> Column:
        """The first of its columns."""
        return Column(config.columns[0] if config.columns else None, "vector", ("number", "image"))

    @classmethod
    def also_reads(cls, config: ClassifierConfig) -> tuple[str, ...]:
        """The other ones, and the classes."""
        return (*(config.columns or ())[1:], config.class_column)

    @classmethod
    def check_columns(cls, config: ClassifierConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Numbers and vectors, or one image; classes that are texts or whole numbers."""
        check_scaled_kinds(config, {name: kind for name, kind in kinds.items() if name != config.class_column})
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
        found, name = read_numeric(table, self.data_columns, self.domain(table)), self.config.class_column
        classes = table.column(name).filter(pa.array(found.usable))
        told = classes.is_valid().to_numpy()
        keys = row_keys(table.column("id").filter(pa.array(found.usable)).to_pylist())
        facts = numeric_facts(found, told & ~held_out(keys, self.training.validation_share))
        facts |= class_facts(name, classes)
        return Survey(np.ones(int(told.sum()), np.int32), found.rejected, np.flatnonzero(found.usable)[~told], facts)

    def combine(self, facts: Iterator[Arrays]) -> Arrays:
        """Of all shards.

        Raises:
            DataError: they do not agree about widths and shape, or there are too many classes, or less than two.
        """
        each, column = list(facts), self.config.class_column
        together = combined(each, self.data_columns)
        if not together:
            return together
        classes = combined_classes(column, each)
        found = read_classes(classes)
        if len(found) < 2:
            held = f"all rows are of the class {found[0]!r}" if found else "no row has a class"
            raise DataError(f"class_column '{column}': {held}; a classifier tells two or more apart")
        return together | classes

    def task(self, context: Context) -> Task:
        """The model, and how rows become its batches."""
        from kxbatch.stages.tasks.classifier import ClassifierTask

        return ClassifierTask(self, context)


STAGE = ClassifierStage
