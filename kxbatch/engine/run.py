"""Runs a job from end to end, and leaves the truth about it in `run.json` and in the exit status."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any, TextIO

from kxbatch.data.receipts import Receipt
from kxbatch.engine.assign import assign
from kxbatch.engine.cards import ARTIFACT
from kxbatch.engine.defects import Defect, keep_defects, read_defects
from kxbatch.engine.executors.base import Executor
from kxbatch.engine.job import Job, Node, build_tree
from kxbatch.engine.lease import Lease, LeaseLost, check_token
from kxbatch.engine.local_copy import local_copy
from kxbatch.engine.manifest import MANIFEST, CorpusPlan, save_manifest
from kxbatch.engine.phases.folding import Pin, fit_and_pin, fold_units
from kxbatch.engine.phases.judging import judge, totals
from kxbatch.engine.phases.mapping import CONFIGURATION, map_units
from kxbatch.engine.phases.pairing import (
    conclude,
    conclusion_key,
    current_blocks,
    in_blocks,
    list_units,
    pair_units,
    patch_tasks,
    read_patches,
    save_blocks,
)
from kxbatch.engine.phases.shards import InputShard, corpus_shards, part_shards
from kxbatch.engine.phases.training import Training, pinned, survey_units
from kxbatch.engine.prepare import prepare
from kxbatch.engine.progress import Progress
from kxbatch.engine.record import StageRecord, publish_record
from kxbatch.engine.scheduler import Completed, Interrupted, Scheduler, Stopped
from kxbatch.engine.signals import Signals
from kxbatch.engine.worker import Assignment, Failure, Worker
from kxbatch.errors import ConfigError, FatalError, KxbatchError
from kxbatch.stages.base import Context


@dataclass
class RunResult:
    """What a run came to.

    Attributes:
        exit_code: 0 done or nothing to do; 1 unexpected; 2 configuration; 3 failed shards; 4 budget or gate; 130/143 signals.
        status: one word: done, unchanged, incomplete, stopped, interrupted.
        message: why it is not done, empty when it is.
        output: the output folder.
        stages: what each stage did.
        failures: shards that could not be done.
        warnings: what a person should know although it is no failure.
    """

    exit_code: int
    status: str
    message: str
    output: str
    stages: list[StageRecord] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0


def run_job(
    job: Job,
    *,
    limit: int | None = None,
    redo: Mapping[str, frozenset[str]] | None = None,
    training_only: bool = False,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> RunResult:
    """Run or resume a job.

    Args:
        job: the job.
        limit: read only the first rows of the corpus, for a trial; a later run without it does the rest.
        redo: stage -> units to do again whatever their receipts say.
        training_only: do the stages that train, and those they build on.
        quiet: no progress.
        stream: where progress goes; absent: standard error.

    Raises:
        ConfigError: nothing was run.
        LeaseHeld: another run is at it.
    """
    started = time.monotonic()
    corpus, nodes = prepare(job)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    seen = _manifest_bytes(job)
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(job.output, run))
        if _manifest_bytes(job) != seen:  # another run finished between our look and our lease
            corpus, nodes = prepare(job)
        fence = partial(check_token, job.output, lease.token)
        job, nodes = job.fenced(fence), [node.fenced(fence) for node in nodes]
        job.output.sweep()
        save_manifest(job.output, corpus)
        signals = stack.enter_context(Signals())
        progress = stack.enter_context(Progress(job.output, run, quiet=quiet, stream=stream))

        @cache
        def executor() -> Executor:  # made on first use: a run with nothing to do starts nothing
            made = make_executor(job)
            stack.callback(made.close)
            return made

        found = read_defects(job.output)
        wanted = {
            node.name: found.get(node.name, frozenset()) | (redo or {}).get(node.name, frozenset()) for node in nodes
        }
        budget = job.spec.job.quarantine
        scheduler = Scheduler(executor, progress, budget, lambda: signals.received, wanted, sweep=limit is None)
        scheduler.shards = frozenset(shard.key for shard in corpus_shards(job, corpus, None))
        wanted_nodes = trained_names(job, nodes) if training_only else frozenset(node.name for node in nodes)
        driver = _Driver(job, nodes, corpus, scheduler, run, lease.token, limit, wanted_nodes)
        result = driver.drive()
        if result.exit_code in (0, 3):
            everything = result.exit_code == 0 and limit is None and not training_only
            keep_defects(job.output, lambda defect: not driver.mended(defect, everything=everything))
        result.seconds = time.monotonic() - started
        try:
            publish_record(job, result, corpus, driver.nodes, run)
            progress.end(result.status, result.exit_code)
        except FatalError as error:
            if result.exit_code == 0 or isinstance(error, LeaseLost):
                raise
            result.warnings.append(f"no record of this run: {error}")  # a full disk, say; the message stays what it was
            progress.say(result.warnings[-1])
    return result


def make_executor(job: Job) -> Executor:
    """The executor that the job names."""
    if job.spec.job.executor == "inline":
        from kxbatch.engine.executors.inline import InlineExecutor

        return InlineExecutor()
    from kxbatch.engine.executors.ray import RayExecutor

    return RayExecutor(job.spec.job.address)


def _manifest_bytes(job: Job) -> bytes | None:
    return job.output.read(MANIFEST) if job.output.exists(MANIFEST) else None


def trained_names(job: Job, nodes: Sequence[Node]) -> frozenset[str]:
    """The stages that train, and all they build on.

    Raises:
        ConfigError: none does.
    """
    wanted = {node.name for node in nodes if "train" in node.stage.phases}
    if not wanted:
        raise ConfigError(f"{job.origin}: no stage of this job trains a model; `kxbatch run` runs it as it is")
    for node in reversed(nodes):
        if node.name in wanted:
            wanted |= {node.upstream, *node.takes}
    return frozenset(wanted)


class _Driver:
    """Goes through the stages in order; holds what one stage leaves for the next.

    Attributes:
        nodes: the stages; those that take an artifact are built anew once it is there.
    """

    def __init__(
        self,
        job: Job,
        nodes: list[Node],
        corpus: CorpusPlan,
        scheduler: Scheduler,
        run: str,
        token: int,
        limit: int | None,
        wanted: frozenset[str],
    ) -> None:
        self._job, self.nodes, self._corpus, self._scheduler = job, nodes, corpus, scheduler
        self._run, self._token, self._wanted = run, token, wanted
        self._shards: dict[str, list[InputShard]] = {"input": corpus_shards(job, corpus, limit)}
        self._chains = {node.name: node.chain for node in nodes} | {"input": _input_chain(job)}
        self._limited = limit is not None
        self._complete = {"input": limit is None and not corpus.broken}
        self._failures = [
            Failure("input", url, "Unreadable", message, "park", 3) for url, message in corpus.broken.items()
        ]
        self._fresh: dict[str, set[str]] = {}
        self._failed: dict[str, set[str]] = {}
        self._records: list[StageRecord] = []
        self._warnings = list(corpus.notes)
        self._made: set[str] = set()  # stages whose artifact is new
        self._skipped: set[str] = set()
        self._broken = {"input": bool(corpus.broken)}
        self._at = ""

    def drive(self) -> RunResult:
        """All stages, or as far as it goes."""
        for note in self._warnings:
            self._scheduler.progress.say(note)
        for failure in self._failures:
            self._scheduler.progress.say(f"input: {failure.message}", "error")
        result = RunResult(0, "done", "", self._job.output.path, self._records, self._failures, self._warnings)
        try:
            for place in range(len(self.nodes)):
                node = self.nodes[place]  # another one by now, if it takes what was trained
                if self._skipped & {node.upstream, *node.takes}:
                    self._skipped.add(node.name)
                elif node.name in self._wanted:
                    self._stage(node)
        except Interrupted as error:
            result.exit_code, result.status, result.message = error.exit_code, "interrupted", str(error)
        except Stopped as error:
            at = f"stage {self._at}, shard {error.failure.key}"
            result.exit_code, result.status, result.message = error.exit_code, "stopped", f"{at}: {error}"
        except KxbatchError as error:
            result.exit_code, result.status, result.message = error.exit_code, "stopped", str(error)
        if result.exit_code == 0 and self._failures:
            result.exit_code, result.status = 3, "incomplete"
            result.message = f"{len(self._failures)} shard(s) failed; mend the cause and run again, the rest is kept"
        elif result.exit_code == 0 and not self._made and not self._fresh_units():
            result.status = "unchanged"
        return result

    def _fresh_units(self) -> bool:
        return any(unit["reused"] is False for record in self._records for unit in record.units)

    def mended(self, defect: Defect, *, everything: bool) -> bool:
        """Whether what verify found is done again; `everything`: all stages of this job were gone through, and nothing failed."""
        if everything:
            return defect.stage in self._chains
        fresh, failed = self._fresh.get(defect.stage, set()), self._failed.get(defect.stage, set())
        return defect.key in fresh - failed

    def _stage(self, node: Node) -> None:
        clock, self._at = time.monotonic(), node.name
        shards, assignment = self._shards[node.upstream], self._assign(node)
        complete = self._complete[node.upstream]
        pin, failed, folded = Pin(""), 0, Completed()
        if "fold" in node.stage.phases:
            folded = self._units(node, assignment, "fold", fold_units(node, shards), whole=complete)
            complete, failed = complete and not folded.failed, len(folded.failed)
            shards = [shard for shard in shards if shard.key in folded.receipts]
            if shards:
                chain, context = self._chains[node.upstream], self._context(node)
                pin = fit_and_pin(node, chain, folded.receipts, context, complete=complete, run=self._run)
                self._made |= {node.name} if pin.made else set()
        done = Completed()
        if "train" in node.stage.phases:
            done = self._units(node, assignment, "survey", survey_units(node, shards), whole=complete)
            shards = [shard for shard in shards if shard.key in done.receipts]
            self._broken[node.name] = self._broken[node.upstream] or bool(done.failed)
            pin = self._train(node, assignment, shards, done, complete=complete)
        elif "map" not in node.stage.phases:
            done = folded
        if "map" not in node.stage.phases:
            self._rebuild()
            self._record(node, done, 0, time.monotonic() - clock, pin)
            return
        patches = None
        if "pairs" in node.stage.phases and shards:
            patches = self._pairs(node, assignment, shards, pin, whole=complete)
            complete = complete and patches is not None
        if patches is not None or "pairs" not in node.stage.phases:
            units = map_units(node, shards, artifact=pin.digest, patches=patches)
            done = self._units(node, assignment, "map", units, whole=complete)
            if done.fresh and not done.failed:
                node.folder.publish_json(CONFIGURATION, node.stage.semantic("map") | node.identity)
        self._broken[node.name] = self._broken[node.upstream] or bool(failed or done.failed)
        self._shards[node.name] = part_shards(node.name, done.receipts)
        self._complete[node.name] = complete and not done.failed
        self._record(node, done, failed, time.monotonic() - clock, pin)
        if any(node.name in other.takes for other in self.nodes):
            self._rebuild()
        if not self._limited:
            judge(node, pin.digest, done.receipts)

    def _train(
        self, node: Node, assignment: Assignment, shards: list[InputShard], surveyed: Completed, *, complete: bool
    ) -> Pin:
        """Train, unless it is done. Where shards are missing it waits for them, and so does what takes its artifact.

        Raises:
            Interrupted: a signal came in; the state is saved.
        """
        training = Training(node, self._chains[node.upstream], surveyed.receipts, complete, self._run)
        asked = "" in self._scheduler.redo.get(node.name, frozenset())
        reason = training.reason(asked=asked)
        if reason is None:
            return pinned(node)
        if self._broken[node.name]:
            message = "not trained, for shards are missing, and it would have to be trained again with them"
            self._failures.append(Failure("train", node.name, "Untrained", message, "park", 3))
            self._scheduler.progress.say(f"stage {node.name}: {message}", "error")
            self._skipped.add(node.name)
            return Pin("", message)
        result = training.result()
        if result is None:
            training.gather()
            self._scheduler.train(node, training.session(assignment, shards))
            result = training.result()
        if result is None:
            raise FatalError(f"stage {node.name}: the trainer ended without a result; run the same command again")
        self._made.add(node.name)
        return training.pin(result, reason)

    def _rebuild(self) -> None:
        """What takes an artifact that is new is another stage now."""
        nodes = build_tree(self._job, self._corpus.columns)
        self.nodes = [node.fenced(self._job.fence) if self._job.fence else node for node in nodes]
        self._chains |= {node.name: node.chain for node in self.nodes}

    def _pairs(
        self, node: Node, assignment: Assignment, shards: list[InputShard], pin: Pin, *, whole: bool
    ) -> dict[int, Any] | None:
        """Patches for the map units; None when a pair is missing, for then no list is right."""
        laid = current_blocks(node, shards)
        save_blocks(node, shards, laid)
        blocks = in_blocks(shards, laid)
        pairs = self._units(node, assignment, "pairs", pair_units(node, blocks, pin.digest), whole=whole)
        if pairs.failed:
            return None
        lists = self._units(node, assignment, "lists", list_units(node, blocks, pairs.receipts), whole=whole)
        if lists.failed:
            return None
        records = read_patches(node, conclusion_key(node, blocks, lists.receipts))
        if records is None or "" in self._scheduler.redo.get(node.name, frozenset()):
            records = conclude(node, blocks, lists.receipts, Worker(assignment), self._context(node))
        return patch_tasks(blocks, records)

    def _context(self, node: Node) -> Context:
        """For what is done in this process."""
        return Context(
            self._job.spec.job.seed,
            node.config.resources.threads,
            0,
            trained=lambda name: local_copy(self._job.output.child(name, ARTIFACT)),
        )

    def _units(self, node: Node, assignment: Assignment, phase: str, units: Any, *, whole: bool) -> Completed:
        completed = self._scheduler.complete(node, assignment, phase, units, whole=whole)
        self._failures.extend(completed.failed)
        self._fresh.setdefault(node.name, set()).update(completed.fresh)
        self._failed.setdefault(node.name, set()).update(failure.key for failure in completed.failed)
        return completed

    def _assign(self, node: Node) -> Assignment:
        return assign(self._job, node, self._corpus, run=self._run, token=self._token)

    def _record(self, node: Node, done: Completed, failed: int, seconds: float, pin: Pin) -> None:
        receipts = [done.receipts[key] for key in sorted(done.receipts)]
        fresh = sum(receipt.rows_out for receipt in receipts if receipt.key in done.fresh)
        counters = totals(receipts)
        remarks = [f"stage {node.name}: {remark}" for remark in node.stage.remarks(counters)]
        self._warnings.extend(remarks)
        for remark in remarks:
            self._scheduler.progress.say(remark)
        if pin.note:
            self._scheduler.progress.log("info", pin.note, stage=node.name)
        self._records.append(
            StageRecord(
                name=node.name,
                kind=node.config.kind,
                upstream=node.upstream,
                shards=len(receipts),
                failed=failed + len(done.failed),
                rows_in=sum(r.rows_in for r in receipts),
                rows_out=sum(r.rows_out for r in receipts),
                rows_quarantined=sum(r.quarantined for r in receipts),
                seconds=round(seconds, 3),
                rows_per_second=round(fresh / seconds, 1) if fresh else 0.0,
                peak_rss=max((r.peak_rss for r in receipts), default=0),
                counters=dict(sorted(counters.items())),
                note=pin.note,
                units=[_unit_record(r, r.key not in done.fresh) for r in receipts],
            )
        )


def _unit_record(receipt: Receipt, reused: bool) -> dict[str, Any]:
    return {
        "key": receipt.key,
        "seconds": receipt.seconds,
        "rows": receipt.rows_out,
        "worker": receipt.worker,
        "reused": reused,
    }


def _input_chain(job: Job) -> str:
    from kxbatch.spec.fingerprint import fingerprint

    return fingerprint(job.spec.input.semantic())
