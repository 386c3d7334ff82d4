"""What a run would do, with no side effect: every shard done, pending or stale, and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from kxbatch.data.documents import read_document
from kxbatch.data.receipts import Receipt, read_receipts
from kxbatch.engine.cards import ARTIFACT, read_card
from kxbatch.engine.defects import read_defects
from kxbatch.engine.job import Job, Node
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.engine.phases.folding import fold_reason, fold_units
from kxbatch.engine.phases.made import made_shards
from kxbatch.engine.phases.mapping import CONFIGURATION, map_units
from kxbatch.engine.phases.pairing import (
    block_name,
    conclusion_key,
    current_blocks,
    in_blocks,
    list_units,
    pair_units,
    patch_tasks,
    read_patches,
)
from kxbatch.engine.phases.shards import InputShard, corpus_shards, part_shards
from kxbatch.engine.phases.training import survey_units, training_reason
from kxbatch.engine.prepare import prepare
from kxbatch.engine.units import Judged, Unit, judge
from kxbatch.spec.fingerprint import differences, fingerprint
from kxbatch.spec.model import NOTHING, MakerConfig

_CONFIGURATION = TypeAdapter(dict[str, Any])


@dataclass
class PhasePlan:
    """One phase of a stage: its units by state, and the reasons of those to be done, counted."""

    stage: str
    phase: str
    total: int
    done: int = 0
    pending: int = 0
    stale: int = 0
    rows: int = 0
    bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass
class Plan:
    """A job's plan.

    Attributes:
        job: its name.
        output: where it writes.
        files: input files.
        shards: input shards.
        rows: input rows, good and bad.
        bytes: uncompressed bytes of the input.
        phases: in running order; `rows` and `bytes` are those still to be read.
        resources: stage -> what one worker takes.
        notes: what changed about the input.
    """

    job: str
    output: str
    files: int
    shards: int
    rows: int
    bytes: int
    phases: list[PhasePlan]
    resources: dict[str, str]
    notes: list[str]

    @property
    def to_do(self) -> int:
        """Units that a run would do."""
        return sum(phase.pending + phase.stale for phase in self.phases)


def plan_job(job: Job, *, limit: int | None = None) -> Plan:
    """Plan a job. Reads footers, receipts and manifests; writes nothing.

    Raises:
        ConfigError: the job cannot run.
    """
    corpus, nodes = prepare(job)
    planner = _Planner(job, nodes, corpus, limit)
    for node in nodes:
        planner.stage(node)
    shards = corpus.shards()
    return Plan(
        job=job.spec.job.name,
        output=job.output.path,
        files=len(corpus.sources),
        shards=len(shards),
        rows=corpus.rows,
        bytes=sum(shard.cut.bytes for _, shard in shards),
        phases=planner.phases,
        resources={node.name: _resources(node) for node in nodes},
        notes=[*corpus.notes, *corpus.broken.values()],
    )


def _resources(node: Node) -> str:
    resources = node.config.resources
    gpus = f", {resources.gpus:g} GPU" if resources.gpus else ""
    return f"{resources.cpus:g} CPU{gpus} a worker"


class _Planner:
    """Follows the stages; a shard whose upstream part is still to be made can only be counted, the others are judged."""

    def __init__(self, job: Job, nodes: list[Node], corpus: CorpusPlan, limit: int | None) -> None:
        self.phases: list[PhasePlan] = []
        self._limit = limit
        self._shards: dict[str, list[InputShard]] = {"input": corpus_shards(job, corpus, limit)}
        self._unmade: dict[str, set[str]] = {"input": set(), NOTHING: set()}
        self._unfitted: set[str] = set()
        self._chains = {node.name: node.chain for node in nodes}
        self._chains["input"] = fingerprint(job.spec.input.semantic())
        self._defects = read_defects(job.output)
        self._read: dict[str, dict[str, Receipt]] = {}

    def stage(self, node: Node) -> None:
        """Plan one stage."""
        self._read = {}
        makes = isinstance(node.config, MakerConfig)
        shards = made_shards(node, self._limit) if makes else self._shards[node.upstream]
        waiting = dict.fromkeys(self._unmade[node.upstream], f"waits for {node.upstream}")
        for taken in node.takes:
            if taken in self._unfitted:
                waiting = {shard.key: f"waits for {taken}" for shard in shards} | waiting
        artifact = ""
        if "fold" in node.stage.phases:
            unfolded = self._count(node, "fold", fold_units(node, shards), waiting)
            artifact, reason = self._artifact(node, bool(unfolded))
            if reason:
                waiting = {shard.key: f"waits for the fit ({reason})" for shard in shards} | waiting
                self._unfitted.add(node.name)
        if "train" in node.stage.phases:
            unsurveyed = self._count(node, "survey", survey_units(node, shards), waiting)
            self._training(node, shards, bool(unsurveyed))
        if "map" not in node.stage.phases:
            return
        patches: dict[int, dict[str, Any]] | None = None
        if "pairs" in node.stage.phases and shards:
            records = self._lists(node, shards, artifact, waiting)
            patches = records or {shard.number: {"ingredients": {}, "task": {}} for shard in shards}
            if records is None:
                waiting = {shard.key: "waits for its neighbour lists" for shard in shards} | waiting
        units = map_units(node, shards, artifact=artifact, patches=patches)
        self._unmade[node.name] = self._count(node, "map", units, waiting)
        made = {k: r for k, r in self._receipts(node, "map").items() if k not in self._unmade[node.name]}
        parts = {part.key: part for part in part_shards(node.name, made)}
        self._shards[node.name] = [parts.get(shard.key, shard) for shard in shards]

    def _training(self, node: Node, shards: list[InputShard], grows: bool) -> None:
        """The training itself, as one unit."""
        card = read_card(node.folder.child(ARTIFACT))
        now = {key: receipt.digest for key, receipt in sorted(self._receipts(node, "survey").items())}
        reason = training_reason(node, self._chains[node.upstream], card, now | ({"more": ""} if grows else {}))
        taken = [name for name in node.takes if name in self._unfitted]
        reason = f"waits for {', '.join(taken)}" if taken else reason
        plan = PhasePlan(node.name, "train", 1, done=int(reason is None))
        if reason:
            self._unfitted.add(node.name)
            plan.pending, plan.stale = int(card is None), int(card is not None)
            plan.rows, plan.bytes = sum(shard.rows for shard in shards), sum(shard.bytes for shard in shards)
            plan.reasons = {reason: 1}
        self.phases.append(plan)

    def _receipts(self, node: Node, phase: str) -> dict[str, Receipt]:
        """Receipts of the stage at hand; a phase is read from disk once, for it is a file a shard."""
        if phase not in self._read:
            self._read[phase] = read_receipts(node.folder, phase)
        return self._read[phase]

    def _artifact(self, node: Node, grows: bool) -> tuple[str, str]:
        """Digest of the artifact, and why it would be fitted again, if it would."""
        card = read_card(node.folder.child(ARTIFACT))
        now = {key: receipt.digest for key, receipt in sorted(self._receipts(node, "fold").items())}
        reason = fold_reason(node, self._chains[node.upstream], card, now | ({"more": ""} if grows else {}))
        if reason is None and card and card["fit"] != node.code("map"):
            reason = "configuration changed"
        return (card["digest"] if card and "digest" in card else ""), reason or ""

    def _lists(
        self, node: Node, shards: list[InputShard], artifact: str, waiting: Mapping[str, str]
    ) -> dict[int, dict[str, Any]] | None:
        """Patches of the shards, None when a pair or a list is still to be made."""
        blocks = in_blocks(shards, current_blocks(node, shards))
        held_up = {block_name(b): waiting[s.key] for b in blocks for s in b if s.key in waiting}
        units = pair_units(node, blocks, artifact)
        waits = {u.key: held_up[name] for u in units for name in u.key.split("-")[1:] if name in held_up}
        if self._count(node, "pairs", units, waits):
            return None
        if self._count(node, "lists", list_units(node, blocks, self._receipts(node, "pairs")), {}):
            return None
        records = read_patches(node, conclusion_key(node, blocks, self._receipts(node, "lists")))
        return patch_tasks(blocks, records) if records is not None else None

    def _count(self, node: Node, phase: str, units: list[Unit], waiting: Mapping[str, str]) -> set[str]:
        """Add a phase to the plan; the keys that are not done."""
        receipts = self._receipts(node, phase)
        judged = judge(units, receipts, node.folder, self._defects.get(node.name, frozenset()))
        judged = [
            Judged(j.unit, "stale" if j.unit.key in receipts else "pending", waiting[j.unit.key])
            if j.unit.key in waiting
            else j
            for j in judged
        ]
        states = Counter(j.state for j in judged)
        todo = [j for j in judged if j.state != "done"]
        plan = PhasePlan(node.name, phase, len(units), states["done"], states["pending"], states["stale"])
        plan.rows, plan.bytes = sum(j.unit.rows for j in todo), sum(j.unit.bytes for j in todo)
        changes = _changes(node) if any("configuration" in j.reason for j in todo) else ""
        plan.reasons = dict(Counter(_why(j, changes) for j in todo).most_common())
        self.phases.append(plan)
        return {j.unit.key for j in todo}


def _changes(node: Node) -> str:
    """What changed in the configuration since the parts were made, in words; empty where nothing did."""
    card = read_document(node.folder, CONFIGURATION, _CONFIGURATION)
    return "; ".join(differences(card, node.stage.semantic("map") | node.identity)) if card is not None else ""


def _why(judged: Judged, changes: str) -> str:
    """The reason, and for a changed configuration what changed in it."""
    if "configuration" not in judged.reason or judged.state != "stale" or not changes:
        return judged.reason
    return f"{judged.reason} ({changes})"
