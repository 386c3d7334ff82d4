"""What a run would do, with no side effect: every shard done, pending or stale, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kxbatch.data.receipts import Receipt, read_receipts
from kxbatch.engine.defects import read_defects
from kxbatch.engine.job import Job, Node
from kxbatch.engine.phases.folding import CARD, fold_units, refit_reason
from kxbatch.engine.phases.mapping import CONFIGURATION, map_units
from kxbatch.engine.phases.pairing import (
    conclusion_key,
    current_blocks,
    in_blocks,
    list_units,
    pair_units,
    patch_tasks,
    read_patches,
)
from kxbatch.engine.phases.shards import InputShard, corpus_shards, part_shards
from kxbatch.engine.prepare import prepare
from kxbatch.engine.units import Judged, Unit, judge
from kxbatch.engine.worker import ARTIFACT
from kxbatch.spec.fingerprint import differences, fingerprint


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
    planner = _Planner(job, nodes, corpus_shards(job, corpus, limit))
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
    """Follows the stages; where one is not done, those below it can only be counted."""

    def __init__(self, job: Job, nodes: list[Node], shards: list[InputShard]) -> None:
        self.phases: list[PhasePlan] = []
        self._shards: dict[str, list[InputShard]] = {"input": shards}
        self._certain = {"input": True}
        self._chains = {node.name: node.chain for node in nodes}
        self._chains["input"] = fingerprint(job.spec.input.semantic())
        self._defects = read_defects(job.output)

    def stage(self, node: Node) -> None:
        """Plan one stage."""
        shards, certain = self._shards[node.upstream], self._certain[node.upstream]
        waits = "" if certain else f"waits for {node.upstream}"
        artifact = ""
        if "fold" in node.stage.phases:
            certain = self._count(node, "fold", fold_units(node, shards), certain, waits)
            card = node.folder.child(ARTIFACT).read_json(CARD)
            now = {key: r.digest for key, r in sorted(read_receipts(node.folder, "fold").items())}
            reason = refit_reason(node, self._chains[node.upstream], card, now)
            fits = reason is None and card["fit"] == node.code("map")
            waits = waits or ("" if fits and certain else f"waits for the fit ({reason or 'configuration changed'})")
            certain, artifact = certain and fits, card["digest"] if card and "digest" in card else ""
        patches = None
        if "pairs" in node.stage.phases and shards:
            blocks = in_blocks(shards, current_blocks(node, shards))
            certain = self._count(node, "pairs", pair_units(node, blocks, artifact), certain, waits)
            lists: dict[str, Receipt] = {}
            if certain:
                units = list_units(node, blocks, read_receipts(node.folder, "pairs"))
                certain = self._count(node, "lists", units, certain, waits)
                lists = read_receipts(node.folder, "lists")
            records = read_patches(node, conclusion_key(node, blocks, lists)) if certain else None
            certain = certain and records is not None
            patches = patch_tasks(blocks, records) if records is not None else None
            waits = waits or ("" if certain else "waits for its neighbour lists")
        if patches is None and "pairs" in node.stage.phases:
            nothing: dict[int, dict[str, Any]] = {shard.number: {"ingredients": {}, "task": {}} for shard in shards}
            units = map_units(node, shards, artifact=artifact, patches=nothing)
        else:
            units = map_units(node, shards, artifact=artifact, patches=patches)
        done = self._count(node, "map", units, certain, waits)
        self._certain[node.name] = done
        receipts = read_receipts(node.folder, "map")
        known = {unit.key: receipts[unit.key] for unit in units if unit.key in receipts}
        self._shards[node.name] = part_shards(node.name, known) if done else shards

    def _count(self, node: Node, phase: str, units: list[Unit], certain: bool, waits: str) -> bool:
        """Add a phase to the plan; whether all of it is done."""
        receipts = read_receipts(node.folder, phase)
        judged = judge(units, receipts, node.folder, self._defects.get(node.name, frozenset()))
        if not certain:
            judged = [Judged(j.unit, "stale" if j.unit.key in receipts else "pending", waits) for j in judged]
        states = Counter(j.state for j in judged)
        todo = [j for j in judged if j.state != "done"]
        reasons = Counter(_why(node, j) for j in todo)
        plan = PhasePlan(node.name, phase, len(units), states["done"], states["pending"], states["stale"])
        plan.rows, plan.bytes = sum(j.unit.rows for j in todo), sum(j.unit.bytes for j in todo)
        plan.reasons = dict(reasons.most_common())
        self.phases.append(plan)
        return not todo


def _why(node: Node, judged: Judged) -> str:
    """The reason, and for a changed configuration what changed in it."""
    card = node.folder.read_json(CONFIGURATION)
    if "configuration" not in judged.reason or judged.state != "stale" or card is None:
        return judged.reason
    now = node.stage.semantic("map") | node.identity
    changes = "; ".join(differences(card, now))
    return f"{judged.reason} ({changes})" if changes else judged.reason
