"""Classes of rows: a column of texts or whole numbers, whose different values are found while a job surveys its rows.

n rows of a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError, DataError
from kxbatch.stages.base import ColumnKind

MOST_CLASSES = 10_000  # of more, a column is something else: an id, a number that was measured
_CLASSES = "classes"
ClassName = str | int


def check_class_kind(column: str, kinds: Mapping[str, ColumnKind]) -> None:
    """Classes are texts or whole numbers.

    Raises:
        ConfigError: the column holds neither texts nor numbers.
    """
    if kinds[column] not in ("text", "number"):
        raise ConfigError(f"class_column: '{column}' is no text or number column but {kinds[column]}")


def class_facts(name: str, column: pa.ChunkedArray) -> Arrays:
    """What a survey tells of the classes of its rows; a null is no class.

    Raises:
        DataError: the column holds neither texts nor whole numbers, or too many different ones.
    """
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
        raise DataError(f"class_column '{name}' has type {kind}; classes are texts or whole numbers")
    different = pc.unique(column.drop_null())
    _check_number(name, len(different))
    return _packed(sorted(different.to_pylist()))


def combined_classes(name: str, facts: Iterable[Arrays]) -> Arrays:
    """What the surveys of all shards tell of them together.

    Raises:
        DataError: there are too many of them.
    """
    classes = {found for one in facts for found in read_classes(one)}
    _check_number(name, len(classes))
    return _packed(sorted(classes))


def read_classes(facts: Arrays) -> tuple[ClassName, ...]:
    """The classes that surveys found, sorted; empty where none were sought."""
    return tuple(json.loads(bytes(facts[_CLASSES]))) if _CLASSES in facts else ()


def class_numbers(column: pa.ChunkedArray, classes: tuple[ClassName, ...]) -> npt.NDArray[np.int64]:
    """The place of each row's class among `classes`, int64 [n]; `len(classes)` for a null."""
    places = {name: number for number, name in enumerate(classes)}
    return np.array([places.get(name, len(classes)) for name in column.to_pylist()], np.int64)


def _packed(classes: list[ClassName]) -> Arrays:
    return {_CLASSES: np.frombuffer(json.dumps(classes).encode(), np.uint8)}


def _check_number(column: str, found: int) -> None:
    if found > MOST_CLASSES:
        raise DataError(
            f"class_column '{column}' has {found} different values, and {MOST_CLASSES} are allowed; a class is something that "
            "many rows have in common"
        )
