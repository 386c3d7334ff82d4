"""Pairs: every unordered pair of blocks once, then the lists of each block, then what follows from all of them.

A block is a run of whole shards. New rows make new blocks, which adds the pairs with themselves and with the old blocks; no
old pair is computed again. Results of a pair hold row numbers local to a block. Global numbers come in when they are gathered;
they follow shard order, so that no result depends on how shards happened to be laid into blocks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, TypeAdapter

from kxbatch.data.arrays import publish_arrays, read_arrays
from kxbatch.data.documents import Document, publish_sealed, read_sealed
from kxbatch.data.receipts import BOOKKEEPING, Count, Receipt
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import ARTIFACT, CARD, publish_artifact, read_card
from kxbatch.engine.job import Node
from kxbatch.engine.phases.shards import InputShard, row_numbers, starts
from kxbatch.engine.shard_reader import ShardReader
from kxbatch.engine.units import Unit, state_file
from kxbatch.errors import FatalError
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.stages.base import Context
from kxbatch.stages.pairs import Corpus, PairsStage, Patch

BLOCKS = f"{BOOKKEEPING}/blocks.json"
PATCHES = f"{BOOKKEEPING}/patches.json"
MANY_SMALL = 8

Block = list[InputShard]


class _Blocks(Document):
    target: Count
    blocks: list[Annotated[list[Count], Field(min_length=1)]]


class _Patch(Document):
    file: str
    digest: str
    mentions: list[Count]


class _Patches(Document):
    conclusion: str
    patches: dict[Annotated[str, Field(pattern=r"^(0|[1-9][0-9]{0,9})$")], _Patch]


_BLOCKS = TypeAdapter(_Blocks)
_PATCHES = TypeAdapter(_Patches)
_MEND = "remove it from the stage's folder, and a run makes it again"


def lay_blocks(old: Sequence[Sequence[int]], shards: Sequence[InputShard], target: int) -> list[list[int]]:
    """Cut shards into blocks.

    Blocks of earlier runs stay as they are; new shards make new blocks of up to `target` rows. When more than
    `MANY_SMALL` small blocks stand at the end, they become one again, so that many small additions stay cheap.

    Args:
        old: shard numbers of the blocks of earlier runs.
        shards: all shards of now, by number.
        target: rows a block aims at.
    """
    rows = {shard.number: shard.rows for shard in shards}
    blocks = [kept for block in old if (kept := [n for n in block if n in rows])]
    laid = {number for block in blocks for number in block}
    new = [shard.number for shard in shards if shard.number not in laid]
    tail = len(blocks)
    while tail and sum(rows[n] for n in blocks[tail - 1]) * 2 < target:
        tail -= 1
    if len(blocks) - tail >= MANY_SMALL and new:
        new = sorted([n for block in blocks[tail:] for n in block] + new)
        blocks = blocks[:tail]
    size = target
    for number in new:
        if size + rows[number] > target:
            blocks.append([])
            size = 0
        blocks[-1].append(number)
        size += rows[number]
    return blocks


def current_blocks(node: Node, shards: Sequence[InputShard]) -> list[list[int]]:
    """The blocks for the shards of now."""
    assert isinstance(node.stage, PairsStage)
    target = node.stage.block_rows(sum(shard.rows for shard in shards))
    mend = "remove it, and a run lays the blocks anew"
    stored = read_sealed(node.folder, BLOCKS, _BLOCKS, mend) or {"target": target, "blocks": []}
    old = stored["blocks"] if stored["target"] == target else []
    return lay_blocks(old, shards, target)


def save_blocks(node: Node, shards: Sequence[InputShard], blocks: list[list[int]]) -> None:
    """Freeze the blocks."""
    assert isinstance(node.stage, PairsStage)
    target = node.stage.block_rows(sum(shard.rows for shard in shards))
    publish_sealed(node.folder, BLOCKS, {"target": target, "blocks": blocks})


def in_blocks(shards: Sequence[InputShard], blocks: Sequence[Sequence[int]]) -> list[Block]:
    """The shards of each block."""
    by_number = {shard.number: shard for shard in shards}
    return [[by_number[number] for number in block] for block in blocks]


def pair_units(node: Node, blocks: Sequence[Block], artifact: str) -> list[Unit]:
    """A unit for every unordered pair of blocks; a block with itself comes first, it is the cheapest to check."""
    pairs = [(i, i) for i in range(len(blocks))]
    pairs += [(i, j) for i in range(len(blocks)) for j in range(i + 1, len(blocks))]
    common = {"configuration": node.code("pairs"), "columns": fingerprint(node.stage.columns)}
    if artifact:
        common["artifact"] = artifact
    digests = [fingerprint([s.digest for s in block]) for block in blocks]  # once a block: pairs are its square
    alone = fingerprint([])
    return [
        _pair_unit(
            blocks[i],
            blocks[j] if j > i else None,
            {**common, "a": digests[i], "b": digests[j] if j > i else alone},
        )
        for i, j in pairs
    ]


def block_name(block: Block) -> str:
    """Blocks are named by their first shard, which no other block has."""
    return f"{block[0].number:05d}"


def _pair_key(a: Block, b: Block) -> str:
    return f"pair-{block_name(a)}-{block_name(b)}"


def _pair_unit(a: Block, b: Block | None, ingredients: dict[str, str]) -> Unit:
    key = _pair_key(a, b or a)
    task = {"a": [s.task for s in a], "b": [s.task for s in b] if b is not None else None}
    both = [*a, *(b or [])]
    rows, size = sum(s.rows for s in both), sum(s.bytes for s in both)
    return Unit("pairs", key, state_file("pairs", key), ingredients, task, rows, size)


def list_units(node: Node, blocks: Sequence[Block], receipts: Mapping[str, Receipt]) -> list[Unit]:
    """A unit for each block, which gathers its lists from all pairs it is in."""
    shards = _in_order(blocks)
    code = node.code("pairs")
    corpus = [[first, dict(shard.task)] for first, shard in zip(starts(shards), shards, strict=True)]
    segments = _segments(blocks)
    units = []
    for i, block in enumerate(blocks):
        sides, digests = [], []
        for j in range(len(blocks)):
            receipt = receipts[_pair_key(blocks[min(i, j)], blocks[max(i, j)])]
            side = "forward" if i <= j else "backward"
            sides.append({"segments": segments[j], "file": receipt.file, "side": side})
            digests.append(receipt.digest)
        ingredients = {"configuration": code, "pairs": fingerprint([digests, segments])}
        key = f"block-{block_name(block)}"
        task = {"segments": segments[i], "sides": sides, "corpus": corpus}
        rows = sum(shard.rows for shard in block)
        units.append(Unit("lists", key, state_file("lists", key), ingredients, task, rows))
    return units


def _in_order(blocks: Sequence[Block]) -> list[InputShard]:
    """All shards, by number."""
    return sorted((shard for block in blocks for shard in block), key=lambda shard: shard.number)


def _segments(blocks: Sequence[Block]) -> list[list[list[int]]]:
    """For each block the (first global row, rows) of its shards; rows are numbered in shard order."""
    shards = _in_order(blocks)
    firsts = {shard.number: first for first, shard in zip(starts(shards), shards, strict=True)}
    return [[[firsts[shard.number], shard.rows] for shard in block] for block in blocks]


def conclusion_key(node: Node, blocks: Sequence[Block], lists: Mapping[str, Receipt]) -> str:
    """What the conclusion depends on."""
    numbers = [[(shard.number, shard.rows) for shard in block] for block in blocks]
    return fingerprint([node.code("map"), numbers, [lists[key].digest for key in sorted(lists)]])


def read_patches(node: Node, key: str) -> dict[str, Any] | None:
    """Patches of the conclusion with this key, None where they are of another one."""
    record = recorded_patches(node.folder)
    return record["patches"] if record and record["conclusion"] == key and _has_card(node) else None


def _has_card(node: Node) -> bool:
    """Whether the artifact has its card; concluding again makes a new one."""
    try:
        return read_card(node.folder.child(ARTIFACT)) is not None
    except FatalError:
        return False


def recorded_patches(stage: Folder) -> dict[str, Any] | None:
    """The record of the patches of the last conclusion, None where there is none.

    Raises:
        FatalError: it is damaged.
    """
    return read_sealed(stage, PATCHES, _PATCHES, _MEND)


def conclude(
    node: Node, blocks: Sequence[Block], lists: Mapping[str, Receipt], reader: ShardReader, context: Context
) -> dict[str, Any]:
    """Conclude from all lists: publishes the artifact and a patch a shard; the record of them comes last."""
    stage = node.stage
    assert isinstance(stage, PairsStage)
    key = conclusion_key(node, blocks, lists)
    shards = _in_order(blocks)
    firsts = starts(shards)
    references = [[first, dict(shard.task)] for first, shard in zip(firsts, shards, strict=True)]
    corpus = Corpus(
        rows=sum(shard.rows for shard in shards),
        blocks=[row_numbers(segments) for segments in _segments(blocks)],
        shards=[(shard.number, first, shard.rows) for first, shard in zip(firsts, shards, strict=True)],
        lists=lambda i: read_arrays(node.folder, lists[f"block-{block_name(blocks[i])}"].file),
        names=lambda rows: reader.names(references, rows),
    )
    artifact, patches = stage.conclude(corpus, context)
    node.folder.remove(PATCHES)  # no record vouches for files that are about to change
    digests = publish_artifact(node.folder.child(ARTIFACT), artifact)
    records = {str(patch.shard): _publish_patch(node, patch, np.array(firsts, np.int64)) for patch in patches}
    card = {"kind": node.config.kind, "version": node.stage.version, "configuration": node.config.semantic()}
    card |= {"column": stage.column, "rows": corpus.rows, "files": digests}
    if "fold" in stage.phases:  # the fold has a card already: the files join it
        fitted = read_card(node.folder.child(ARTIFACT)) or {"files": {}}
        card = fitted | {"files": fitted["files"] | digests}
    card["concluded"] = fingerprint(digests)
    publish_sealed(node.folder.child(ARTIFACT), CARD, card)
    publish_sealed(node.folder, PATCHES, {"conclusion": key, "patches": records})
    return records


def _publish_patch(node: Node, patch: Patch, firsts: npt.NDArray[np.int64]) -> dict[str, Any]:
    file = state_file("patches", f"part-{patch.shard:05d}")
    digest = publish_arrays(node.folder, file, patch.arrays).digest
    rows = patch.mentions[patch.mentions >= 0]
    mentioned = np.unique(np.searchsorted(firsts, rows, side="right") - 1)
    return {"file": file, "digest": digest, "mentions": mentioned.tolist()}


def patch_tasks(blocks: Sequence[Block], records: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Ingredients and task of each shard's map unit."""
    shards = _in_order(blocks)
    firsts = starts(shards)
    tasks = {}
    for shard in shards:
        record = records[str(shard.number)]
        mentioned = [(firsts[i], shards[i]) for i in record["mentions"]]
        names = fingerprint([s.digest for _, s in mentioned])
        tasks[shard.number] = {
            "ingredients": {"lists": record["digest"], "neighbours": names},
            "task": {
                "patch": record["file"],
                "references": [[first, dict(s.task)] for first, s in mentioned],
            },
        }
    return tasks
