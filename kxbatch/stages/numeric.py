"""Columns of numbers, vectors or images as one array: what a row is to a model of densities.

n rows of a table, m of them usable, D values of a row.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.images import decode, quantise, shape_of
from kxbatch.data.quarantine import Rejected
from kxbatch.data.vectors import is_vector, lengths, to_numpy
from kxbatch.errors import ConfigError, DataError
from kxbatch.stages.base import ColumnKind

LARGEST = 1e100  # of a value: beyond it float64 has no room for sums of squares
MOST_VALUES = 2**28  # of the images of a shard: 2 GB as float64
Nulls = Literal["refuse", "impute"]
Shape = tuple[int, int, int]
Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Domain:
    """What values are allowed.

    Attributes:
        levels: whole numbers 0 to `levels - 1`, to which images are quantised; None: any finite number.
        nulls: a null number sets its row aside, or comes as NaN for the model to fill.
        widths: how many values each column must have, as a model was trained; None: as most rows of the table have.
        shape: height, width and channels that an image must have; None: as most have.
        largest: of a value's magnitude.
    """

    levels: int | None
    nulls: Nulls = "refuse"
    widths: tuple[int, ...] | None = None
    shape: Shape | None = None
    largest: float = LARGEST


@dataclass(frozen=True)
class Numeric:
    """The usable rows of a table.

    Attributes:
        values: float64 [m, D]; NaN for a null that is to be filled.
        usable: bool [n].
        rejected: the other rows.
        widths: values of each column.
        shape: of the images; None without.
    """

    values: Values
    usable: npt.NDArray[np.bool_]
    rejected: list[Rejected]
    widths: tuple[int, ...]
    shape: Shape | None


def check_kinds(columns: Sequence[str], kinds: Mapping[str, ColumnKind]) -> None:
    """Numbers and vectors go together, an image stands alone.

    Raises:
        ConfigError: they do not, or something else is among them.
    """
    for name in columns:
        if kinds[name] not in ("number", "vector", "image"):
            raise ConfigError(f"columns: '{name}' is no number, vector or image column but {kinds[name]}")
    if len(columns) > 1 and any(kinds[name] == "image" for name in columns):
        raise ConfigError("columns: an image column stands alone; name it only, or embed the images first")


def read_numeric(table: pa.Table, columns: Sequence[str], domain: Domain) -> Numeric:
    """The values of the rows that can be computed with.

    Set aside are: a null (unless it is to be filled), NaN, infinity and what is near it, a vector or an image of another size than
    the model's (or than most of the table's), bytes that are no image, values that `domain.levels` does not allow.

    Args:
        table: has `id` and the columns.
        columns: number, vector or image columns.
        domain: what is allowed.

    Raises:
        DataError: a column holds none of these.
    """
    read = _Reading(table, domain)
    wanted = domain.widths or (None,) * len(columns)
    each = [read.column(name, width) for name, width in zip(columns, wanted, strict=True)]
    values = np.concatenate(each, axis=1) if each else np.empty((len(table), 0))
    if domain.levels is not None:
        read.check_levels(values, domain.levels)
    usable = read.reasons == ""
    return Numeric(values[usable], usable, read.rejected, tuple(one.shape[1] for one in each), read.shape)


class _Reading:
    """Collects reasons against rows while columns are read; the first reason stays."""

    def __init__(self, table: pa.Table, domain: Domain) -> None:
        self._table, self._domain = table, domain
        self.reasons, self._words = (np.full(len(table), "", object) for _ in range(2))
        self.shape = domain.shape

    def column(self, name: str, width: int | None) -> Values:
        """float64 [n, width]; anything where a row is set aside."""
        column = self._table.column(name)
        if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
            return self._images(name, column)
        if is_vector(column.type):
            return self._vectors(name, column, width)
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            return self._numbers(name, column)
        raise DataError(f"column '{name}' has type {column.type}; numbers, vectors or images are needed")

    def check_levels(self, values: Values, levels: int) -> None:
        """Whole numbers in range."""
        wrong = (values != np.rint(values)) | (values < 0) | (values > levels - 1)
        self._set_aside(wrong.any(axis=1), "out-of-range", f"whole numbers 0 to {levels - 1} are wanted, or images")

    @property
    def rejected(self) -> list[Rejected]:
        """The rows that have a reason."""
        ids, rows = self._table.column("id"), np.flatnonzero(self.reasons != "")
        return [Rejected(int(r), str(ids[int(r)].as_py()), self.reasons[r], self._words[r]) for r in rows]

    def _set_aside(self, rows: npt.NDArray[Any], reason: str, words: str) -> None:
        fresh = rows & (self.reasons == "")
        self.reasons[fresh], self._words[fresh] = reason, words

    def _numbers(self, name: str, column: pa.ChunkedArray) -> Values:
        null = column.is_null().to_numpy()
        values: Values = column.fill_null(0).to_numpy().astype(np.float64)[:, None]
        self._finite(name, values)
        if self._domain.nulls == "impute":
            values[null] = np.nan
        else:
            self._set_aside(null, "null-value", f"column '{name}' is null")
        return values

    def _finite(self, name: str, values: Values) -> None:
        largest = self._domain.largest
        known = np.asarray((np.abs(values) <= largest).all(axis=1))  # NaN is not
        self._set_aside(~known, "not-finite", f"column '{name}' has NaN, infinite values, or values beyond {largest:g}")

    def _vectors(self, name: str, column: pa.ChunkedArray, width: int | None) -> Values:
        length = lengths(column)
        if width is None:
            counts = np.unique(length[length >= 0], return_counts=True)
            width = int(counts[0][np.argmax(counts[1])]) if len(counts[0]) else 0
        self._set_aside(length < 0, "null-vector", f"column '{name}' is null")
        self._set_aside(length == 0, "empty-vector", f"column '{name}' has no values")
        self._set_aside(length != width, "vector-length", f"column '{name}': its length is not {width}")
        fitting = np.flatnonzero(length == width)
        values = np.zeros((len(column), width))
        if len(fitting):
            values[fitting] = to_numpy(column.take(pa.array(fitting)), name, np.float64)
        self._finite(name, values)
        return values

    def _images(self, name: str, column: pa.ChunkedArray) -> Values:
        null = column.is_null().to_numpy()
        self._set_aside(null, "null-image", f"column '{name}' is null")
        contents, levels = column.to_pylist(), self._domain.levels
        shapes = [
            None if one is None else shape_of(one) for one in contents
        ]  # told by headers: a small file may hold much
        if self.shape is None:
            common = Counter(shape for shape in shapes if shape is not None).most_common(1)
            self.shape = common[0][0] if common else (0, 0, 1)
        height, width, channels = self.shape
        other = np.array([shape is not None and shape != self.shape for shape in shapes], bool)
        words = f"column '{name}': the image is not {height} x {width} with {channels} channel(s)"
        self._set_aside(other, "image-shape", words)
        broken = np.array([shape is None for shape in shapes], bool)
        values = np.zeros((len(column), self._fitting(name, int((~broken & ~other).sum()), height * width * channels)))
        for row in np.flatnonzero(~broken & ~other):
            pixels = decode(contents[row])
            if pixels is None or pixels.shape != self.shape:
                broken[row] = True
            else:
                values[row] = (pixels if levels is None else quantise(pixels, levels)).reshape(-1)
        self._set_aside(broken, "unreadable-image", f"column '{name}' holds no image that can be read")
        return values

    def _fitting(self, name: str, rows: int, width: int) -> int:
        """The width, if the rows' values fit in memory.

        Raises:
            DataError: they do not.
        """
        if rows * width > MOST_VALUES:
            raise DataError(
                f"column '{name}': {rows} images of {width} values in one shard, {rows * width * 8 / 1e9:.1f} GB decoded; make "
                "them smaller, or set a smaller input.shard_size"
            )
        return width
