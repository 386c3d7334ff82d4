"""Map units: one part for each input shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.engine.job import Node
from kxbatch.engine.phases.shards import InputShard
from kxbatch.engine.units import Unit, part_file
from kxbatch.spec.fingerprint import fingerprint

CONFIGURATION = f"{BOOKKEEPING}/configuration.json"  # of the parts as they are, so that a plan can name what changed


def map_units(
    node: Node,
    shards: Sequence[InputShard],
    *,
    artifact: str = "",
    patches: Mapping[int, Mapping[str, Any]] | None = None,
) -> list[Unit]:
    """One unit a shard.

    Args:
        node: the stage.
        shards: what it reads.
        artifact: digest of the fitted artifact it applies, empty for none.
        patches: for stages with a pairs phase: shard number -> ingredients and task of the patch.
    """
    common = {"configuration": node.code("map"), "columns": fingerprint([*node.stage.columns, *node.config.keep])}
    if artifact:
        common["artifact"] = artifact
    return [_unit(shard, common, patches[shard.number] if patches is not None else None) for shard in shards]


def _unit(shard: InputShard, common: Mapping[str, str], patch: Mapping[str, Any] | None) -> Unit:
    ingredients = {**common, "input": shard.digest}
    task: dict[str, Any] = {"shard": shard.task, "footer": {"inputs": shard.label}}
    if patch is not None:
        ingredients |= patch["ingredients"]
        task |= patch["task"]
    return Unit("map", shard.key, part_file(shard.key), ingredients, task, shard.rows, shard.bytes)
