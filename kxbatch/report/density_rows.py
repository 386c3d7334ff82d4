"""Rows of a density stage, some at a time: a corpus passes through without being held."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kxbatch.data.storage import File, Folder
from kxbatch.report import RowId
from kxbatch.report.neighbourhood import shard_number
from kxbatch.report.parquet import open_parquet

Floats = NDArray[np.float64]
BATCH = 1 << 16
NEEDED = ("id", "log_density")
MEASURES = ("density_score", "density_percentile", "density_stderr", "ess")  # shown where a part has them


@dataclass(frozen=True)
class Place:
    """A row by the number of its shard and its place there, from 0."""

    shard: int
    at: int


class Placed(Protocol):
    """Any row that is shown."""

    @property
    def place(self) -> Place:
        """Where it is."""
        ...


R = TypeVar("R", bound=Placed)


@dataclass(frozen=True)
class Row:
    """A row that is shown; what is not known of it is None."""

    place: Place
    id: RowId
    log_density: float
    percentile: float | None = None
    stderr: float | None = None
    outlier: bool | None = None


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a part, n of them.

    Attributes:
        shard: number of the part.
        start: place of the first row there.
        ids: [n].
        measures: column -> [n], NaN for null; a column that the part lacks is all NaN.
        outlier: [n], 1.0 for a known outlier, 0.0 for a row known not to be one, NaN where nothing is known.
    """

    shard: int
    start: int
    ids: pa.Array
    measures: Mapping[str, Floats]
    outlier: Floats

    @property
    def log_density(self) -> Floats:
        """[n], nats."""
        return self.measures["log_density"]

    def first(self, keys: Floats, count: int) -> list[tuple[float, Row]]:
        """The `count` rows with the smallest keys, with their keys; NaN is no key."""
        order = np.argsort(keys, kind="stable")[:count]
        return [(float(keys[at]), self._row(int(at))) for at in order if not np.isnan(keys[at])]

    def _row(self, at: int) -> Row:
        percentile, stderr = (_or_none(self.measures[name][at]) for name in ("density_percentile", "density_stderr"))
        outlier = None if np.isnan(self.outlier[at]) else bool(self.outlier[at])
        place = Place(self.shard, self.start + at)
        return Row(place, self.ids[at].as_py(), float(self.log_density[at]), percentile, stderr, outlier)


class Thinned:
    """Every row while they are few, later every second, fourth, ...: spread evenly, and the same for the same rows.

    Attributes:
        every: 1 while every row is held.
    """

    def __init__(self, width: int, most: int) -> None:
        self.every = 1
        self._most, self._seen, self._held = most, 0, 0
        self._parts: list[Floats] = [np.empty((0, width))]

    def add(self, rows: Floats) -> None:
        """Take more rows, [n, width]."""
        kept = rows[-self._seen % self.every :: self.every].copy()
        self._seen += len(rows)
        self._held += len(kept)
        self._parts.append(kept)
        while self._held > self._most:
            self._parts = [self.rows[::2].copy()]
            self._held, self.every = len(self._parts[0]), 2 * self.every

    @property
    def rows(self) -> Floats:
        """[held, width], in the order they came."""
        self._parts = [np.concatenate(self._parts)]
        return self._parts[0]


def least(found: Iterable[tuple[float, R]], count: int) -> list[tuple[float, R]]:
    """The `count` smallest keys and their rows; of equal keys the first in the output."""
    return sorted(found, key=lambda one: (one[0], one[1].place.shard, one[1].place.at))[:count]


def part_files(stage: Folder) -> dict[int, File]:
    """The parts of a stage by their numbers, ascending."""
    files = [stage.file(name) for name in stage.names(".parquet") if name.startswith("part-")]
    return {shard_number(file): file for file in sorted(files, key=shard_number)}


def batches(stage: Folder, labels: str | None) -> Iterator[Batch]:
    """All rows of a density stage, part by part.

    Args:
        stage: folder of it.
        labels: column of booleans, or of 0 and 1, that tells known outliers.

    Raises:
        DataError: a part is damaged, or has no ids or log densities.
    """
    for shard, file in part_files(stage).items():
        with open_parquet(file, NEEDED) as part:
            kinds = {field.name: field.type for field in part.schema_arrow}
            measures = [name for name in ("log_density", *MEASURES) if name in kinds]
            label = labels if labels in kinds and _tells(kinds[labels]) else None
            start = 0
            columns = list(dict.fromkeys(["id", *measures, *([label] if label else [])]))
            for read in part.iter_batches(batch_size=BATCH, columns=columns):
                yield _batch(read, shard, start, label)
                start += read.num_rows


def _batch(read: pa.RecordBatch, shard: int, start: int, label: str | None) -> Batch:
    unknown = np.full(read.num_rows, np.nan)
    names = ("log_density", *MEASURES)
    measures = {name: _numbers(read.column(name)) if name in read.schema.names else unknown for name in names}
    told = _numbers(read.column(label)) if label else unknown
    return Batch(shard, start, read.column("id"), measures, np.where((told == 0) | (told == 1), told, np.nan))


def _numbers(column: pa.Array) -> Floats:
    numbers: Floats = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _tells(kind: Any) -> bool:
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _or_none(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
