"""Rows of a retrieve stage, some at a time: the best answers, and how they compare with the facts that are kept beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kxbatch.data.storage import Folder
from kxbatch.models.graph.text import normalize, split_meaning
from kxbatch.report import RowId
from kxbatch.report.density_rows import Floats, Place, part_files
from kxbatch.report.parquet import open_parquet
from kxbatch.stages.retrieve import ANSWERS, NOT_ASKED

BATCH = 1 << 12  # an answer may have many objects
NEEDED = ("id", "answers", "no_answer")
PARTS = ("subject", "predicate", "meaning")
KNOWN = PARTS[:2]  # columns of the right facts, where the stage keeps both
MOST_OBJECTS = 3


@dataclass(frozen=True)
class Row:
    """A question that is shown.

    Attributes:
        place: where it is.
        id: of the row.
        answer: the best one, `subject - predicate (meaning): objects`; or why there is none.
        score: log p of it, nats; None without one.
        wrong: whether subject or predicate is known to be another one.
    """

    place: Place
    id: RowId
    answer: str
    score: float | None = None
    wrong: bool = False


@dataclass(frozen=True)
class Batch:
    """Rows of a part that were asked, n of them.

    Attributes:
        shard: number of the part.
        places: int64 [n], of the rows there.
        ids: [n].
        best: structs [n], the first answers; null without one.
        reasons: strings [n], why there is none.
        score: [n], log p of the best answer, nats; NaN without one.
        parts: [n, 3], of its subject, predicate and meaning.
        right: [n, 2], whether its subject and predicate are the kept ones, 1.0 or 0.0; NaN without an answer or a kept fact.
        known: bool [n], whether there is a kept fact.
        learned: [n], 1.0 or 0.0 for rows that were or were not learned from, NaN where nothing is known.
    """

    shard: int
    places: NDArray[np.int64]
    ids: pa.Array
    best: pa.StructArray
    reasons: pa.Array
    score: Floats
    parts: Floats
    right: Floats
    known: np.ndarray[tuple[int], np.dtype[np.bool_]]
    learned: Floats

    def first(self, keys: Floats, count: int) -> list[tuple[float, Row]]:
        """The `count` rows with the smallest keys, with their keys; NaN is no key."""
        order = np.argsort(keys, kind="stable")[:count]
        return [(float(keys[at]), self._row(int(at))) for at in order if not np.isnan(keys[at])]

    def _row(self, at: int) -> Row:
        place, name = Place(self.shard, int(self.places[at])), self.ids[at].as_py()
        if not self.best[at].is_valid:
            return Row(place, name, self.reasons[at].as_py() or "no reason is given")
        return Row(place, name, _told(self.best[at]), float(self.score[at]), bool((self.right[at] == 0).any()))


def batches(stage: Folder, learned: str | None) -> Iterator[Batch]:
    """All rows of a retrieve stage that were asked, part by part.

    Args:
        stage: folder of it.
        learned: boolean column that tells the rows that were learned from; one that the parts lack is as none.

    Raises:
        DataError: a part is damaged, or is not what the stage writes.
    """
    for shard, file in part_files(stage).items():
        with open_parquet(file, NEEDED) as part:
            kinds = {field.name: field.type for field in part.schema_arrow}
            columns = [*NEEDED]
            if all(_is_text(kinds.get(name)) for name in KNOWN):
                columns += KNOWN
            if learned is not None and learned in kinds and pa.types.is_boolean(kinds[learned]):
                columns.append(learned)
            start = 0
            for read in part.iter_batches(batch_size=BATCH, columns=columns):
                asked = pc.fill_null(pc.not_equal(pc.cast(read.column("no_answer"), pa.string()), NOT_ASKED), True)
                yield _batch(read.filter(asked), shard, start + np.flatnonzero(asked), learned)
                start += read.num_rows


def _batch(read: pa.RecordBatch, shard: int, places: NDArray[np.int64], learned: str | None) -> Batch:
    held, unknown = read.schema.names, pa.nulls(read.num_rows, pa.string())
    best = _first(pc.cast(read.column("answers"), ANSWERS))
    by_part = pc.struct_field(best, "part_scores")
    kept = [read.column(name) if name in held else unknown for name in KNOWN]
    known = np.asarray(pc.and_(*(pc.is_valid(column) for column in kept)))
    right = [_same(pc.struct_field(best, name), column) for name, column in zip(KNOWN, kept, strict=True)]
    return Batch(
        shard=shard,
        places=places,
        ids=read.column("id"),
        best=best,
        reasons=pc.cast(read.column("no_answer"), pa.string()),
        score=_numbers(pc.struct_field(best, "score")),
        parts=np.stack([_numbers(pc.list_element(by_part, at)) for at in range(len(PARTS))], axis=1),
        right=np.where(known[:, None], np.stack(right, axis=1), np.nan),
        known=known,
        learned=_numbers(read.column(learned) if learned in held else unknown),
    )


def _first(answers: pa.ListArray) -> pa.StructArray:
    some = pc.fill_null(pc.greater(pc.list_value_length(answers), 0), False)
    return answers.values.take(pc.if_else(some, answers.offsets[:-1], None))


def _same(answered: pa.Array, kept: pa.Array) -> Floats:
    """Whether they are alike when normalised, NaN for null; a kept subject may hold its meaning in brackets."""
    left = normalize(answered)
    sides = (normalize(kept), normalize(split_meaning(pc.cast(kept, pa.large_string()))[0]))
    return _numbers(pc.or_(*(pc.equal(left, side) for side in sides)))


def _told(fact: pa.StructScalar) -> str:
    subject, predicate, meaning = (fact[name].as_py() or "" for name in PARTS)
    objects = fact["objects"].values
    first = [str(one) for one in objects[:MOST_OBJECTS].to_pylist()] if objects is not None else []
    more = len(objects) - len(first) if objects is not None else 0
    words = "; ".join(first) + (f" and {more} more" if more else "")
    return f"{subject} - {predicate}{f' ({meaning})' if meaning else ''}: {words}"


def _numbers(column: pa.Array) -> Floats:
    numbers: Floats = pc.cast(column, pa.float64()).to_numpy(zero_copy_only=False)
    return numbers


def _is_text(kind: pa.DataType | None) -> bool:
    return kind is not None and bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
