"""Rows that were set aside, with what is needed to find and mend them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from kxbatch.data.parts import publish_part, read_part
from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import Folder

SCHEMA = pa.schema(
    [
        pa.field("run", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),
        pa.field("row", pa.int64(), nullable=False),
        pa.field("id", pa.string()),
        pa.field("error", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("raw", pa.string()),
    ]
)


@dataclass(frozen=True)
class Rejected:
    """One row that a stage or a reader could not use.

    Attributes:
        row: its number: in the source file for readers, in the shard for stages.
        id: its id, where it has one.
        error: a short type for counting, such as `empty-text`.
        message: the reason in words.
        raw: the beginning of the row as it was found.
    """

    row: int
    id: str | None
    error: str
    message: str
    raw: str | None = None


def quarantine_name(key: str) -> str:
    """Name of a unit's quarantine file inside its stage's folder."""
    return f"{BOOKKEEPING}/quarantine/{key}.parquet"


def publish_quarantine(stage: Folder, key: str, rejected: Sequence[Rejected], *, run: str, name: str) -> str:
    """Write the rows that a unit set aside; none removes what an earlier attempt wrote.

    Returns:
        SHA-256 of the file, empty where there is none.
    """
    if not rejected:
        stage.remove(quarantine_name(key))
        return ""
    rows = [
        {"run": run, "stage": name, "shard": key, "row": r.row, "id": r.id}
        | {"error": r.error, "message": r.message, "raw": r.raw}
        for r in rejected
    ]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    return publish_part(stage, quarantine_name(key), table, {"stage": name}).digest


def read_quarantine(stage: Folder) -> pa.Table:
    """All rows that a stage set aside, in shard order."""
    folder = stage.child(BOOKKEEPING, "quarantine")
    tables = [read_part(folder.file(name)).replace_schema_metadata(None) for name in folder.names(".parquet")]
    return pa.concat_tables(tables) if tables else SCHEMA.empty_table()
