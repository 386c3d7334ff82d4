"""Rows that a run set aside, counted by reason."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.storage import Folder
from kxbatch.report.parquet import read_parquet

EXAMPLES = 3
COLUMNS = ["stage", "shard", "row", "id", "error", "message"]


@dataclass(frozen=True)
class Reason:
    """One kind of error in one stage: how many rows it cost, and the first few of them in row order."""

    stage: str
    error: str
    rows: int
    examples: tuple[dict[str, Any], ...]


def reasons(output: Folder, stages: Iterable[str]) -> list[Reason]:
    """Why rows of an output were set aside, the most frequent reason first.

    Args:
        output: folder that a run has written.
        stages: names of its stages; each keeps its rows under `_kxbatch/quarantine/`.
    """
    folders = [output.child(stage, "_kxbatch", "quarantine") for stage in stages]
    files = [folder.file(name) for folder in folders for name in folder.names(".parquet")]
    tables = [read_parquet(file, COLUMNS) for file in files]
    if not tables:
        return []
    table = pa.concat_tables(tables, promote_options="permissive")
    counts = table.group_by(["stage", "error"]).aggregate([([], "count_all")]).to_pylist()
    counts.sort(key=lambda count: (-count["count_all"], str(count["stage"]), str(count["error"])))
    return [
        Reason(
            str(one["stage"]),
            str(one["error"]),
            one["count_all"],
            _examples(table, one["stage"], one["error"]),
        )
        for one in counts
    ]


def _examples(table: pa.Table, stage: str, error: str) -> tuple[dict[str, Any], ...]:
    same = pc.and_(pc.equal(table["stage"], stage), pc.equal(table["error"], error))
    found = table.filter(same).sort_by([("shard", "ascending"), ("row", "ascending"), ("id", "ascending")])
    return tuple(found.slice(0, EXAMPLES).to_pylist())
