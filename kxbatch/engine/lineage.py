"""Where a part came from: stage by stage up to the source file, from footers, receipts, cards and the manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kxbatch.data.filesystems import absolute
from kxbatch.data.parts import read_footer
from kxbatch.data.receipts import Receipt, read_receipt
from kxbatch.data.storage import File, Folder
from kxbatch.engine.cards import ARTIFACT, read_card, taken_digest
from kxbatch.engine.export import KIND
from kxbatch.engine.manifest import read_manifest
from kxbatch.errors import ConfigError, DataError
from kxbatch.spec.model import NAME, NOTHING
from kxbatch.stages.base import TRAINED

_MODEL = ("model", "model_digest")
_OF_PART = ("stage", "stage_version", "job", "fingerprint", "configuration", "upstream")
_OF_EXPORT = ("output", "fingerprint", "inputs", "job")


@dataclass
class Step:
    """One file on the way from the source to the file asked about.

    Attributes:
        what: `stage`, `artifact`, `export`, `source`, or `missing` for a file that is gone.
        file: its path or URL.
        name: of the stage or the job.
        facts: kind, version, model, configuration, fingerprint; of a source: rows, size, time of change.
        receipt: who made it, when, how, and its digest; None where there is none.
        artifact: the fitted artifact that was applied; None where the stage has none.
        notes: what is not as it was when the file was made.
        made_from: the files it was made from.
    """

    what: str
    file: str
    name: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    receipt: dict[str, Any] | None = None
    artifact: dict[str, Any] | None = None
    notes: list[str] = field(default_factory=list)
    made_from: list[Step] = field(default_factory=list)


def trace(path: str | Path) -> Step:
    """Follow a part to its sources.

    Args:
        path: a part of a stage, or a Parquet file that `export` or `compact` made from such parts.

    Raises:
        ConfigError: not such a file.
        DataError: the file cannot be read.
    """
    return _traced(File(absolute(str(path), None)), frozenset())


def _traced(file: File, below: frozenset[File]) -> Step:
    """Follow a file; `below` are those on the way to it, which metadata from elsewhere could name again."""
    if Folder(file.path).exists():
        raise ConfigError(f"{file} is a folder; name one of its parts")
    if file.size() is None:
        raise ConfigError(f"{file} does not exist")
    _, rows, footer = read_footer(file)
    if "kind" not in footer:
        raise ConfigError(f"{file}: has no kxbatch.* metadata, so no run of kxbatch made it")
    missing = [key for key in (_OF_EXPORT if footer["kind"] == KIND else _OF_PART) if key not in footer]
    if footer.get("upstream", "input") and not NAME.fullmatch(footer.get("upstream", "input")):
        missing = ["upstream"]
    if missing:
        raise DataError(
            f"{file}: its metadata has no usable kxbatch.{missing[0]}, so no run of kxbatch made it as it is"
        )
    make = _exported if footer["kind"] == KIND else _part
    return make(file, rows, footer, below | {file})


def _exported(file: File, rows: int, footer: dict[str, str], below: frozenset[File]) -> Step:
    facts = {"rows": rows, "output": footer["output"], "fingerprint": footer["fingerprint"]}
    above = [Folder(footer["output"]).file(name) for name in footer["inputs"].split("; ")]
    return Step("export", str(file), footer["job"], facts, made_from=[_above(part, below) for part in above])


def _above(file: File, below: frozenset[File]) -> Step:
    if file in below:
        return Step("missing", str(file), notes=["the metadata leads in a circle"])
    if file.size() is None:
        return Step("missing", str(file), notes=["the file is gone"])
    return _traced(file, below)


def _part(file: File, rows: int, footer: dict[str, str], below: frozenset[File]) -> Step:
    stage = file.folder
    output, key = File(stage.path).folder, file.name.removesuffix(".parquet")
    facts: dict[str, Any] = {key: footer[key] for key in ("kind", "stage_version", "job", "fingerprint")}
    facts |= {
        "configuration": _configuration(file, footer["configuration"]),
        "inputs": footer.get("inputs", ""),
        "rows": rows,
    }
    facts |= {key: footer[key] for key in _MODEL if key in footer}
    step = Step("stage", str(file), footer["stage"], facts)
    receipt = read_receipt(stage, "map", key)
    if receipt is None:
        step.notes.append("no receipt beside it: a copy, or a part that no finished run vouches for")
        return step
    step.receipt = _receipt_facts(receipt)
    step.artifact = _artifact_facts(stage, receipt, step.notes)
    if "neighbours" in receipt.ingredients:
        step.notes.append("its lists come from comparing its rows with those of all parts of the stage it reads")
    taken = _taken(output, footer)
    if footer["upstream"] == "input":
        step.made_from = [*_sources(output, key), *taken]
        return step
    if footer["upstream"] == NOTHING:
        step.made_from = taken
        return step
    above = _above(output.child(footer["upstream"]).file(file.name), below)
    if above.receipt and above.receipt["digest"] != receipt.ingredients["input"]:
        step.notes.append(f"{footer['upstream']}/{file.name} was made again since; this part is stale")
    step.made_from = [above, *taken]
    return step


def _taken(output: Folder, facts: Mapping[str, Any]) -> list[Step]:
    """The artifacts of other stages that a part or an artifact was made with, and what those were made with."""
    return [_trained(output, key.removeprefix(TRAINED), facts[key]) for key in sorted(facts) if key.startswith(TRAINED)]


def _trained(output: Folder, name: str, used: str) -> Step:
    folder = output.child(name, ARTIFACT) if NAME.fullmatch(name) else None
    card = read_card(folder) if folder else None
    if folder is None or card is None:
        return Step("missing", str(folder.path if folder else name), name, notes=["the artifact is gone"])
    names = ("kind", "version", "digest", "configuration")
    facts = {key: card[key] for key in (*names, "rows") if key in card}
    if "fitted" in card:
        facts |= {"rows": card["fitted"]["rows"], "by_run": card["fitted"]["run"], "at": card["fitted"]["at"]}
    facts |= {key: card.get("training", {}).get(key) for key in ("status", "step", "best") if "training" in card}
    notes = [] if taken_digest(card) == used else ["it was made again since; what was made with it is stale"]
    return Step("artifact", folder.path, name, facts, notes=notes, made_from=_taken(output, card))


def _configuration(file: File, text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{file}: kxbatch.configuration of its metadata is no JSON object")
    return found


def _receipt_facts(receipt: Receipt) -> dict[str, Any]:
    names = ("run", "host", "worker", "started", "seconds", "attempt", "rows_in", "rows_out", "quarantined", "digest")
    return {name: getattr(receipt, name) for name in names}


def _artifact_facts(stage: Folder, receipt: Receipt, notes: list[str]) -> dict[str, Any] | None:
    """The fit that a part was made with, as far as the card still tells."""
    used = receipt.ingredients.get("artifact")
    if used is None:
        return None
    card = read_card(stage.child(ARTIFACT)) or {}
    if card.get("digest") != used:
        notes.append("its stage was fitted again since; this part is stale")
        return {"digest": used}
    fitted = card["fitted"]
    facts = {"digest": used, "fitted_on_rows": fitted["rows"], "fitted_on_shards": len(card["fitted_on"])}
    return facts | {"by_run": fitted["run"], "at": fitted["at"], "drift_since": card["drift"]}


def _sources(output: Folder, key: str) -> list[Step]:
    manifest = read_manifest(output)
    name = key.removeprefix("part-")
    number = int(name) if name.isdecimal() else -1
    for source, shard in manifest.shards() if manifest else []:
        if shard.number == number:
            first, file = shard.cut.first_row, source.file
            facts: dict[str, Any] = {"rows": shard.cut.rows, "first_row": first, "last_row": first + shard.cut.rows - 1}
            modified = datetime.fromtimestamp(file.modified_ns / 1e9, UTC).isoformat(timespec="seconds")
            facts |= {"bytes": file.size, "modified": modified}
            gone = [] if source.present else ["the file was gone when the last run looked"]
            return [Step("source", file.url, file.name, facts, notes=gone)]
    return [Step("missing", "", notes=["the manifest has no such shard any more"])]
