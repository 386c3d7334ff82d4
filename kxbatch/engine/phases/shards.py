"""What a stage reads: shards of the corpus, or the parts of the stage above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kxbatch.data.receipts import Receipt
from kxbatch.engine.corpus import source_task
from kxbatch.engine.job import Job
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.spec.fingerprint import fingerprint


@dataclass(frozen=True)
class InputShard:
    """One shard as a stage sees it.

    Attributes:
        number: its number for life; parts made from it carry it.
        rows: rows it has (of the corpus: physical rows, bad ones too).
        bytes: size, for plans.
        digest: decides whether what was made from it still holds.
        task: tells a worker how to read it.
        label: what footers and messages call it.
    """

    number: int
    rows: int
    bytes: int
    digest: str
    task: Mapping[str, Any]
    label: str

    @property
    def key(self) -> str:
        """Key of units made from it."""
        return f"part-{self.number:05d}"


def corpus_shards(job: Job, plan: CorpusPlan, limit: int | None) -> list[InputShard]:
    """Shards of the input; with a limit, only as many as hold that many rows, the last one cut short."""
    semantic = job.spec.input.semantic()
    shards, left = [], limit
    for source, shard in plan.shards():
        if left is not None and left <= 0:
            break
        take = None if left is None or shard.cut.rows <= left else left
        rows = shard.cut.rows if take is None else take
        file, cut = source.file, shard.cut
        digest = fingerprint([file.name, file.size, file.modified_ns, vars(cut), semantic, take])
        label = f"{file.name} rows {cut.first_row}-{cut.first_row + rows - 1}"
        shards.append(InputShard(shard.number, rows, cut.bytes, digest, source_task(source, shard, take), label))
        left = None if left is None else left - rows
    return shards


def part_shards(upstream: str, receipts: Mapping[str, Receipt]) -> list[InputShard]:
    """The finished parts of a stage, in order."""
    return [
        InputShard(
            number=int(key.removeprefix("part-")),
            rows=receipt.rows_out,
            bytes=receipt.bytes,
            digest=receipt.digest,
            task={"part": receipt.file},
            label=f"{upstream}/{receipt.file}",
        )
        for key, receipt in sorted(receipts.items())
    ]


def starts(shards: Sequence[InputShard]) -> list[int]:
    """First global row of each shard."""
    firsts, row = [], 0
    for shard in shards:
        firsts.append(row)
        row += shard.rows
    return firsts


def row_numbers(segments: Sequence[Sequence[int]]) -> npt.NDArray[np.int64]:
    """Global row numbers of a block, from (first global row, rows) of its shards."""
    return np.concatenate([np.arange(first, first + rows, dtype=np.int64) for first, rows in segments])
