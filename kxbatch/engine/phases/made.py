"""Rows that no file holds and no stage above left: numbers from 0, cut into shards once, and the cut kept for ever.

The cut is kept because `count` and `shard_rows` may change: shards that are there stay as they are, a short one at the end too,
and rows that come later are shards behind them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pyarrow as pa
from pydantic import TypeAdapter, field_validator

from kxbatch.data.documents import Document, publish_sealed, read_sealed
from kxbatch.data.receipts import BOOKKEEPING, Count
from kxbatch.data.storage import Folder
from kxbatch.engine.job import Node
from kxbatch.engine.phases.shards import InputShard
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.spec.model import MakerConfig
from kxbatch.stages.base import SAMPLE_ID

CUT = f"{BOOKKEEPING}/cut.json"
_MEND = "restore it, or remove it and run the job again, which cuts the rows anew and keeps what still fits"


class _Cut(Document):
    ends: list[Count]

    @field_validator("ends")
    @classmethod
    def _each_shard_has_rows(cls, ends: list[int]) -> list[int]:
        if any(stop <= start for start, stop in itertools.pairwise([0, *ends])):
            raise ValueError("every shard must end after the one before")
        return ends


_SHAPE = TypeAdapter(_Cut)


def made_shards(node: Node, limit: int | None) -> list[InputShard]:
    """Shards of the rows that a stage is to make; with a limit, of that many. Writes nothing.

    Raises:
        FatalError: the cut is damaged.
    """
    config = node.config
    assert isinstance(config, MakerConfig)
    count = config.count if limit is None else min(config.count, limit)
    stops = [stop for stop in read_cut(node.folder) if stop < count]
    stops += [*range((stops[-1] if stops else 0) + config.shard_rows, count, config.shard_rows), count]
    return [_shard(*one) for one in zip(range(len(stops)), [0, *stops], stops, strict=False)]


def _shard(number: int, start: int, stop: int) -> InputShard:
    label = f"samples {start}-{stop - 1}"
    return InputShard(number, stop - start, 0, fingerprint([start, stop - 1]), {"range": [start, stop]}, label)


def shard_keys(nodes: Iterable[Node]) -> frozenset[str]:
    """Keys of all shards of the stages that make their rows."""
    makers = [node for node in nodes if isinstance(node.config, MakerConfig)]
    return frozenset(shard.key for node in makers for shard in made_shards(node, None))


def read_cut(stage: Folder) -> list[int]:
    """Where each shard of a stage ends, as it was kept; none before its first run.

    Raises:
        FatalError: it is damaged.
    """
    kept = read_sealed(stage, CUT, _SHAPE, _MEND)
    return list(kept["ends"]) if kept else []


def keep_cut(node: Node, shards: Sequence[InputShard]) -> None:
    """Keep the cut, for all later runs."""
    stops = [int(shard.task["range"][1]) for shard in shards]
    if stops != read_cut(node.folder):
        publish_sealed(node.folder, CUT, {"ends": stops})


def numbers(start: int, stop: int) -> pa.Table:
    """The table of such a shard: `id`, the number as a string, and `sample_id`, int64."""
    counted = pa.array(range(start, stop), pa.int64())
    return pa.table({"id": counted.cast(pa.string()), SAMPLE_ID: counted})
