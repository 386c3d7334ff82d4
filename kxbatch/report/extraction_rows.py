"""Rows of an extract stage, some at a time, their entities as flat arrays.

Letters: n rows, S entities of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.row_groups import row_batches
from kxbatch.data.storage import Folder
from kxbatch.models.extraction.metrics import Booleans, Numbers, SpanSet, is_nested, unique_spans
from kxbatch.report import RowId
from kxbatch.report.density_rows import Floats, Place, part_files
from kxbatch.report.parquet import open_parquet

BATCH = 1 << 13
NEEDED = ("id", "entities")
FIELDS = {"start": pa.int64(), "end": pa.int64(), "type": pa.string(), "score": pa.float64(), "text": pa.string()}


@dataclass(frozen=True)
class Entity:
    """An entity that is shown: offsets in code points, the end exclusive."""

    start: int
    end: int
    type: str
    score: float
    text: str
    nested: bool


@dataclass(frozen=True)
class Row:
    """A text that is shown, with its entities."""

    place: Place
    id: RowId
    entities: tuple[Entity, ...]


@dataclass(frozen=True)
class Batch:
    """Consecutive rows of a part, n of them; every entity is there once.

    Attributes:
        shard: number of the part.
        start: place of the first row there.
        ids: [n].
        rows: int64 [S], ascending; row of each entity, from 0 on.
        starts: int64 [S].
        ends: int64 [S].
        types: string [S].
        scores: float64 [S].
        surfaces: string [S].
        nested: bool [S], whether it lies inside another one of its text or holds one.
    """

    shard: int
    start: int
    ids: pa.Array
    rows: Numbers
    starts: Numbers
    ends: Numbers
    types: pa.StringArray
    scores: Floats
    surfaces: pa.StringArray
    nested: Booleans

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def counts(self) -> Numbers:
        """Entities of each row, int64 [n]."""
        return np.bincount(self.rows, minlength=len(self))

    @property
    def means(self) -> Floats:
        """Mean score of the entities of each row, float64 [n]; NaN without one."""
        with np.errstate(invalid="ignore"):
            return np.bincount(self.rows, self.scores, len(self)) / self.counts

    @property
    def lowest(self) -> Floats:
        """Smallest score of each row, float64 [n]; NaN without an entity."""
        found = np.full(len(self), np.inf)
        np.fmin.at(found, self.rows, self.scores)
        return np.where(self.counts > 0, found, np.nan)

    def first(self, keys: Floats, count: int) -> list[tuple[float, Row]]:
        """The `count` rows with the smallest keys, with their keys; NaN is no key."""
        order = np.argsort(keys, kind="stable")[:count]
        return [(float(keys[at]), self._row(int(at))) for at in order if not np.isnan(keys[at])]

    def _row(self, at: int) -> Row:
        first, last = np.searchsorted(self.rows, [at, at + 1])
        names = self.types[first:last].to_pylist(), self.surfaces[first:last].to_pylist()
        columns = (self.starts, self.ends, self.scores, self.nested)
        starts, ends, scores, nested = (column[first:last].tolist() for column in columns)
        entities = tuple(map(Entity, starts, ends, names[0], scores, names[1], nested))
        return Row(Place(self.shard, self.start + at), self.ids[at].as_py(), entities)


def batches(stage: Folder) -> Iterator[Batch]:
    """All rows of an extract stage, part by part.

    Raises:
        DataError: a part is damaged, or is not what the stage writes.
    """
    for shard, file in part_files(stage).items():
        with open_parquet(file, NEEDED) as part:
            start = 0
            for read in row_batches(part, BATCH, NEEDED):
                yield _batch(read, shard, start)
                start += read.num_rows


def _batch(read: pa.RecordBatch, shard: int, start: int) -> Batch:
    lists = read.column("entities")
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False)
    rows, values = np.repeat(np.arange(len(lists)), lengths), pc.list_flatten(lists)
    fields = {name: pc.cast(pc.struct_field(values, name), kind) for name, kind in FIELDS.items()}
    for name, column in fields.items():
        if column.null_count:
            raise pa.ArrowInvalid(f"an entity without {name}")
    _, numbers = np.unique(fields["type"].to_numpy(zero_copy_only=False).astype(str), return_inverse=True)
    columns = rows, fields["start"].to_numpy(), fields["end"].to_numpy(), numbers
    places = unique_spans(*columns)
    spans, taken = SpanSet(*(column[places] for column in columns)), pa.array(places)
    return Batch(
        shard,
        start,
        read.column("id"),
        spans.rows,
        spans.starts,
        spans.ends,
        fields["type"].take(taken),
        fields["score"].to_numpy()[places],
        fields["text"].take(taken),
        is_nested(spans),
    )
