"""Reads rows of shards: of the corpus, or of the parts that the stage above left; or counts them, where they are to be made."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.parts import read_part
from kxbatch.data.quarantine import Rejected
from kxbatch.data.storage import Folder
from kxbatch.engine.assign import Assignment
from kxbatch.engine.corpus import read_source
from kxbatch.engine.phases.made import numbers

_KEPT_NAMES = 4096  # shards whose ids are kept


class ShardReader:
    """Reads what a stage reads.

    Args:
        assignment: of the stage's workers.
    """

    def __init__(self, assignment: Assignment) -> None:
        self._input, self._upstream = assignment.input, Folder(assignment.output).child(assignment.upstream)
        self._schema = pa.ipc.read_schema(pa.py_buffer(assignment.schema))
        self._names: OrderedDict[str, pa.Array] = OrderedDict()

    def read(self, shard: Mapping[str, Any], columns: Sequence[str]) -> tuple[pa.Table, list[Rejected]]:
        """`id` and columns of a shard, and the rows that cannot be read.

        Raises:
            DataError: the file is gone or changed.
        """
        if "range" in shard:
            return numbers(*shard["range"]), []
        wanted = list(dict.fromkeys(columns))
        if "part" in shard:
            table = read_part(self._upstream.file(shard["part"]), ["id", *wanted])
            return table.replace_schema_metadata(None), []
        result = read_source(shard, wanted, self._schema, self._input)
        rejected = [
            Rejected(bad.row, bad.id, bad.error, _located(bad.message, bad.line), bad.raw) for bad in result.bad
        ]
        limit = shard["limit"]
        table = result.table if limit is None else result.table.slice(0, limit)
        return table, rejected

    def read_block(self, shards: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pa.Table:
        """`id` and columns of shards, one after the other."""
        return pa.concat_tables([self.read(shard, columns)[0] for shard in shards])

    def names(self, references: Sequence[Any], rows: npt.NDArray[np.int64]) -> pa.Array:
        """Ids of global rows, null for -1.

        Args:
            references: (first global row, shard) of at least every shard that `rows` fall into, in order; only those are read.
            rows: int64, any shape; read in C order.
        """
        flat = rows.reshape(-1)
        starts = np.array([first for first, _ in references], np.int64)
        which = np.searchsorted(starts, flat, side="right") - 1
        which[flat < 0] = -1
        chunks, positions, offset = [], np.full(len(flat), -1, np.int64), 0
        for index in np.unique(which[which >= 0]):
            names = self._shard_names(references[index][1])
            here = which == index
            positions[here] = flat[here] - starts[index] + offset
            chunks.append(names)
            offset += len(names)
        if not chunks:
            return pa.nulls(len(flat), pa.string())
        table = pa.concat_arrays(chunks)
        return table.take(pa.array(positions, mask=positions < 0))

    def _shard_names(self, shard: Mapping[str, Any]) -> pa.Array:
        key = str(shard.get("part") or (shard["source"]["url"], shard["cut"]["start"]))
        if key not in self._names:
            self._names[key] = self.read(shard, [])[0].column("id").combine_chunks()
            if len(self._names) > _KEPT_NAMES:
                self._names.popitem(last=False)
        return self._names[key]


def _located(message: str, line: int | None) -> str:
    return message if line is None else f"line {line}: {message}"
