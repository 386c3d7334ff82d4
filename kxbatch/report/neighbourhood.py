"""Rows worth looking at in the output of a hubness stage: hubs, antihubs, and whom a few rows find.

A stage keeps the shards of its input, so a row of one hubness stage is looked up in another one by its id
within the shard of the same number; only the row groups that hold a wanted row are read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kxbatch.data.storage import File, Folder
from kxbatch.report import RowId
from kxbatch.report.parquet import open_parquet, read_parquet

HUBS = 10
ANTIHUBS = 6
NEIGHBOURS = 5
MIDDLE_ROWS = 3
PUBLISHED = ["id", "k_occurrence", "neighbor_ids", "neighbor_scores"]


@dataclass(frozen=True)
class Place:
    """Where a row is: its id and the number of its shard."""

    id: RowId
    shard: int


@dataclass(frozen=True)
class ListedRow(Place):
    """A hub or an antihub: its k-occurrence here, and in the compared stage where that is known."""

    k_occurrence: int
    elsewhere: int | None = None


@dataclass(frozen=True)
class RowList:
    """Top hubs (most found first) or a sample of the antihubs of one stage; `other` is the compared stage."""

    stage: str
    kind: Literal["hubs", "antihubs"]
    rows: tuple[ListedRow, ...]
    other: str | None = None


@dataclass(frozen=True)
class Published:
    """What a hubness stage wrote about one row: its k-occurrence, and the ids it finds with their scores."""

    k_occurrence: int
    found: tuple[tuple[RowId, float | None], ...]


@dataclass(frozen=True)
class Neighbourhood:
    """One row and whom it finds in each compared stage: `(stage, what that stage wrote)`."""

    id: RowId
    why: str
    sides: tuple[tuple[str, Published], ...]


def listed_rows(stage: Folder) -> Iterator[RowList]:
    """The first top hubs and antihubs that a hubness stage names; nothing for a file that is not there."""
    artifact, name = stage.child("_artifact"), File(stage.path).name
    hubs = artifact.file("top_hubs.parquet")
    if hubs.size() is not None:
        table = read_parquet(hubs, ["rank", "id", "k_occurrence", "shard"])
        rows = table.sort_by("rank").slice(0, HUBS).to_pylist()
        found = tuple(ListedRow(row["id"], row["shard"], row["k_occurrence"]) for row in rows)
        yield RowList(name, "hubs", found)
    antihubs = artifact.file("antihubs.parquet")
    if antihubs.size() is not None:
        rows = read_parquet(antihubs, ["id", "shard"]).slice(0, ANTIHUBS).to_pylist()
        yield RowList(name, "antihubs", tuple(ListedRow(row["id"], row["shard"], 0) for row in rows))


def tell_elsewhere(output: Folder, lists: Sequence[RowList], stages: Sequence[str]) -> list[RowList]:
    """Add to every listed row how often it is found in the other of two stages."""
    if len(stages) < 2:
        return list(lists)
    told = []
    for one in lists:
        other = stages[1] if one.stage == stages[0] else stages[0]
        known = look_up(output.child(other), one.rows)
        rows = (replace(row, elsewhere=known[row.id].k_occurrence if row.id in known else None) for row in one.rows)
        told.append(replace(one, other=other, rows=tuple(rows)))
    return told


def neighbourhoods(output: Folder, lists: Sequence[RowList], stages: Sequence[str]) -> list[Neighbourhood]:
    """Whom a few rows find in each stage: the first stage's largest hub, and rows from inside the corpus.

    Args:
        output: folder of the run.
        lists: the stages' hubs, of which the very first is taken.
        stages: names of the compared hubness stages, one or two; no stage gives no neighbourhoods.
    """
    if not stages:
        return []
    chosen = {one.rows[0]: "the largest hub" for one in lists[:1] if one.kind == "hubs" and one.rows}
    places = {Place(hub.id, hub.shard): f"{why} of {stages[0]}" for hub, why in chosen.items()}
    for place, why in middle_rows(output.child(stages[0])):
        places.setdefault(place, why)
    known = {stage: look_up(output.child(stage), places) for stage in stages}
    shown = []
    for place, why in places.items():
        sides = tuple((stage, rows[place.id]) for stage, rows in known.items() if place.id in rows)
        if sides:
            shown.append(Neighbourhood(place.id, why, sides))
    return shown


def middle_rows(stage: Folder) -> Iterator[tuple[Place, str]]:
    """Rows at even distances inside a stage's output, with words that say where."""
    files = [stage.file(name) for name in stage.names(".parquet") if name.startswith("part-")]
    ends = np.cumsum([_rows(file) for file in files], dtype=np.int64)
    total = int(ends[-1]) if len(ends) else 0
    positions = {total * step // (MIDDLE_ROWS + 1) for step in range(1, MIDDLE_ROWS + 1)} if total else set()
    for position in sorted(positions):
        index = int(np.searchsorted(ends, position, side="right"))
        before = int(ends[index - 1]) if index else 0
        ids = read_parquet(files[index], ["id"])["id"]
        place = Place(ids[position - before].as_py(), shard_number(files[index]))
        yield place, f"row {position + 1} of {total}"


def _rows(file: File) -> int:
    with open_parquet(file, ["id"]) as part:
        return int(part.metadata.num_rows)


def shard_number(file: File) -> int:
    """The number in a shard's name: `part-00012.parquet` is 12."""
    return int(file.name.removeprefix("part-").removesuffix(".parquet"))


def look_up(stage: Folder, places: Iterable[Place]) -> dict[RowId, Published]:
    """What a hubness stage wrote about some rows; rows it does not hold are left out."""
    by_shard: dict[int, list[RowId]] = defaultdict(list)
    for place in places:
        by_shard[place.shard].append(place.id)
    known: dict[RowId, Published] = {}
    for shard, ids in sorted(by_shard.items()):
        file = stage.file(f"part-{shard:05d}.parquet")
        if file.size() is not None:
            with open_parquet(file, PUBLISHED) as part:
                known.update(_look_up_in_shard(part, ids))
    return known


def _look_up_in_shard(file: pq.ParquetFile, wanted: Sequence[RowId]) -> Iterator[tuple[RowId, Published]]:
    for group in range(file.num_row_groups):
        ids = file.read_row_group(group, columns=["id"])["id"]
        at = pc.indices_nonzero(pc.is_in(ids, value_set=pa.array(wanted, type=ids.type)))
        if len(at):
            for row in file.read_row_group(group, columns=PUBLISHED).take(at).to_pylist():
                yield row["id"], _published(row)


def _published(row: dict[str, Any]) -> Published:
    pairs = zip(row["neighbor_ids"] or (), row["neighbor_scores"] or (), strict=True)
    found = tuple((neighbour, score) for neighbour, score in pairs if neighbour is not None)  # null pads the list
    return Published(row["k_occurrence"], found[:NEIGHBOURS])
