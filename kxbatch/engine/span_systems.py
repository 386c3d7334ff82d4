"""Several systems over the same rows: brought into one order, and refused where they are not the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.span_columns import FlatSpans
from kxbatch.engine.span_rows import SpanRows
from kxbatch.errors import DataError
from kxbatch.models.extraction.metrics import Numbers


def aligned(first: SpanRows, other: SpanRows) -> SpanRows:
    """The rows of a system in the order of the first one's.

    Raises:
        DataError: rows have no ids, or the two differ in ids, texts or right spans; names the first that does.
    """
    ours, theirs = _ids(first), _ids(other)
    if ours.type != theirs.type:
        ours, theirs = ours.cast(pa.large_string()), theirs.cast(pa.large_string())
    _refuse_strangers(first, ours, other, theirs)
    _refuse_strangers(other, theirs, first, ours)
    places = pc.index_in(ours, value_set=theirs).to_numpy(zero_copy_only=False)
    found = _reordered(other, places.astype(np.int64))
    at = pc.index(pc.not_equal(first.texts, found.texts), True).as_py()
    if at >= 0:
        raise DataError(f"{other.source}: the row with id {ours[at].as_py()!r} has another text than in {first.source}")
    differing = sorted(_spans(first.gold) ^ _spans(found.gold))
    if differing:
        name = ours[differing[0][0]].as_py()
        raise DataError(f"{other.source}: the row with id {name!r} has other right spans than in {first.source}")
    return found


def _ids(rows: SpanRows) -> pa.Array:
    if rows.ids is None:
        raise DataError(f"{rows.source}: no column 'id'; systems are compared over rows of the same ids")
    counts = pc.value_counts(rows.ids)
    at = pc.index(pc.greater(counts.field("counts"), 1), True).as_py()
    if at >= 0:
        raise DataError(
            f"{rows.source}: two rows have the id {counts.field('values')[at].as_py()!r}; ids tell rows apart"
        )
    return rows.ids


def _refuse_strangers(one: SpanRows, ids: pa.Array, other: SpanRows, known: pa.Array) -> None:
    missing = pc.is_null(pc.index_in(ids, value_set=known))
    at = pc.index(missing, True).as_py()
    if at >= 0:
        raise DataError(
            f"{other.source}: no row with id {ids[at].as_py()!r}, which {one.source} has "
            f"({pc.sum(missing).as_py()} such rows); systems are compared over the same rows"
        )


def _reordered(rows: SpanRows, places: Numbers) -> SpanRows:
    """The rows in another order: first the one at `places[0]`; of their ids there is no more need."""
    gold, found = (_renumbered(spans, np.argsort(places)) for spans in (rows.gold, rows.found))
    return replace(rows, ids=None, texts=rows.texts.take(pa.array(places)), gold=gold, found=found)


def _renumbered(spans: FlatSpans, new: Numbers) -> FlatSpans:
    rows = new[spans.rows]
    order = np.argsort(rows, kind="stable")
    types = spans.types.take(pa.array(order))
    return FlatSpans(rows[order], spans.starts[order], spans.ends[order], types, spans.scores[order])


def _spans(spans: FlatSpans) -> set[tuple[int, int, int, str]]:
    columns = (spans.rows.tolist(), spans.starts.tolist(), spans.ends.tolist(), spans.types.to_pylist())
    return set(zip(*columns, strict=True))
