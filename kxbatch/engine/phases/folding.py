"""Fold units, and the artifact that is fitted from their states and pinned.

States are merged in a fixed tree over shard numbers, so the same shards give the same bytes for any number of workers. The artifact
is *pinned*: rows that come later use it as it is. It is fitted again when what it was fitted from no longer means the same
(configuration, the stage above), when it was fitted on an incomplete corpus, or when `refit` says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from kxbatch.data.arrays import Arrays, publish_arrays, read_arrays
from kxbatch.data.documents import publish_sealed
from kxbatch.data.receipts import Receipt
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import ARTIFACT, CARD, STATE, damaged_files, publish_artifact, read_card
from kxbatch.engine.job import Node
from kxbatch.engine.phases.shards import InputShard
from kxbatch.engine.units import Unit, state_file
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.stages.base import Artifact, Context, FoldStage, Phase


def fold_units(node: Node, shards: Sequence[InputShard]) -> list[Unit]:
    """One unit a shard, which leaves its state."""
    return state_units(node, "fold", shards, {})


def state_units(node: Node, phase: Phase, shards: Sequence[InputShard], more: Mapping[str, str]) -> list[Unit]:
    """Units of a phase that reads every shard and leaves arrays; `more` are ingredients beside the usual ones."""
    common = {"configuration": node.code(phase), "columns": fingerprint(node.stage.columns), **more}
    return [
        Unit(
            phase,
            shard.key,
            state_file(phase, shard.key),
            {**common, "input": shard.digest},
            {"shard": shard.task},
            shard.rows,
            shard.bytes,
        )
        for shard in shards
    ]


@dataclass(frozen=True)
class Pin:
    """The fitted artifact.

    Attributes:
        digest: of its arrays; what map units depend on.
        note: what was decided about it, for people.
        made: whether it was fitted, or mended, just now.
    """

    digest: str
    note: str = ""
    made: bool = False


def read_pin(node: Node) -> Pin | None:
    """The artifact as it stands, None where nothing was fitted."""
    card = read_card(node.folder.child(ARTIFACT))
    return Pin(card["digest"]) if card and "fold" in card else None


def refit_reason(
    card: Mapping[str, Any] | None, now: Mapping[str, str], *, fold: str, chain: str, refit: str
) -> str | None:
    """Why the artifact must be fitted again whatever has drifted; None: it need not.

    Args:
        card: what is known of the artifact, None for none.
        now: digests of the states of now, by shard key.
        fold: fingerprint of what is computed of every shard, or of the whole training.
        chain: configuration of everything above the stage.
        refit: when rows that came later lead to a new fit.
    """
    if card is None or "fold" not in card:
        return "first fit"
    if card["fold"] != fold:
        return "its configuration changed"
    if card["chain"] != chain:
        return "the stage it reads changed"
    if card["fitted_on"] == dict(now):
        return None
    if card["provisional"]:
        return "it was fitted while shards were missing"
    return "refit = 'always'" if refit == "always" else None


def fold_reason(node: Node, chain: str, card: Mapping[str, Any] | None, now: Mapping[str, str]) -> str | None:
    """`refit_reason` of a stage that folds."""
    assert isinstance(node.stage, FoldStage)
    reason = refit_reason(card, now, fold=node.code("fold"), chain=chain, refit=getattr(node.config, "refit", "never"))
    if reason is None and not node.stage.keeps_state and card is not None and card["fitted_on"] != dict(now):
        return "its rows changed"
    return reason


def fit_and_pin(
    node: Node, chain: str, receipts: Mapping[str, Receipt], context: Context, *, complete: bool, run: str
) -> Pin:
    """Fit, keep or refit the artifact; publishes its files first and its card last.

    Args:
        node: a fold stage.
        chain: configuration of everything above it.
        receipts: of all fold units that are done.
        context: for the fit.
        complete: whether no shard is missing.
        run: id of this run, for the card.
    """
    folder, stage = node.folder.child(ARTIFACT), node.stage
    assert isinstance(stage, FoldStage)
    card = read_card(folder)
    now = {key: receipt.digest for key, receipt in sorted(receipts.items())}
    reason = fold_reason(node, chain, card, now)
    damaged = damaged_files(folder, card) if card else set()
    if card and reason is None and not damaged and card["seen"] == now and card["fit"] == node.code("map"):
        return Pin(card["digest"])
    if STATE in damaged:
        reason = reason or "its stored state is damaged"
    current = stage.merge_all(read_arrays(node.folder, receipt.file) for _, receipt in sorted(receipts.items()))
    pinned = current if reason or not stage.keeps_state else read_arrays(folder, STATE)
    drift = 0.0 if reason else stage.drift(pinned, current)
    limit = getattr(node.config, "max_drift", float("inf"))
    if reason is None and getattr(node.config, "refit", "never") == "on-drift" and drift > limit:
        reason, pinned = f"drift {drift:.3g} is over max_drift {limit:g}", current
    if card is not None and not card.get("provisional", True):
        context = replace(context, earlier=folder.read_json)
    artifact = stage.fit(pinned, current, context)
    files = _publish(folder, artifact, pinned if stage.keeps_state else None)
    digest = fingerprint({name: files[name] for name in artifact.deciding})
    rows = {"rows": sum(receipt.rows_in for receipt in receipts.values()), "run": run}
    fitted = {"fitted_on": now, "fitted": rows | {"at": datetime.now(UTC).isoformat(timespec="seconds")}}
    kept = {key: card[key] for key in ("fitted_on", "fitted", "provisional")} if card and reason is None else None
    new_card = {
        "kind": node.config.kind,
        "version": node.stage.version,
        "configuration": node.config.semantic(),
    }
    new_card |= node.identity | {
        "column": node.stage.column,
        "fold": node.code("fold"),
        "fit": node.code("map"),
    }
    new_card |= {"chain": chain, "digest": digest, "drift": drift, "seen": now, "provisional": not complete}
    new_card["files"] = files
    publish_sealed(folder, CARD, new_card | fitted | (kept or {}))
    return Pin(digest, _note(reason, drift, card), made=reason is not None or bool(damaged))


def _note(reason: str | None, drift: float, card: Mapping[str, Any] | None) -> str:
    if reason is None:
        return f"artifact kept as fitted on {card['fitted']['rows'] if card else 0} rows (drift {drift:.3g})"
    return f"artifact fitted: {reason}"


def _publish(folder: Folder, artifact: Artifact, pinned: Arrays | None) -> dict[str, str]:
    """Publish the artifact and the state behind it, if any; arrays that this configuration no longer makes go."""
    files = publish_artifact(folder, artifact)
    if pinned is not None:
        files[STATE] = publish_arrays(folder, STATE, pinned).digest
    for name in set(folder.names(".safetensors")) - files.keys():
        folder.remove(name)
    return files
