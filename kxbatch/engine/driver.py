"""Goes through the stages of a job: which phases each has, and what it leaves for those that build on it."""

from __future__ import annotations

import time
from typing import Any

from kxbatch.engine.assign import Assignment, assign
from kxbatch.engine.cards import ARTIFACT
from kxbatch.engine.defects import Defect
from kxbatch.engine.failure import Failure
from kxbatch.engine.job import Job, Node, build_tree
from kxbatch.engine.local_copy import local_copy
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.engine.phases.folding import Pin, fit_and_pin, fold_units
from kxbatch.engine.phases.judging import judge
from kxbatch.engine.phases.made import keep_cut, made_shards
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
from kxbatch.engine.record import StageRecord
from kxbatch.engine.result import RunResult, stage_record
from kxbatch.engine.scheduler import Completed, Interrupted, Scheduler, Stopped
from kxbatch.engine.shard_reader import ShardReader
from kxbatch.errors import FatalError, KxbatchError
from kxbatch.spec.model import NOTHING, MakerConfig
from kxbatch.stages.base import Context


class Driver:
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
        self._limit = limit
        self._complete = {"input": limit is None and not corpus.broken, NOTHING: limit is None}
        self._failures = [
            Failure("input", url, "Unreadable", message, "park", 3) for url, message in corpus.broken.items()
        ]
        self._fresh: dict[str, set[str]] = {}
        self._failed: dict[str, set[str]] = {}
        self._records: list[StageRecord] = []
        self._warnings = list(corpus.notes)
        self._made: set[str] = set()  # stages whose artifact is new
        self._skipped: set[str] = set()
        self._broken = {"input": bool(corpus.broken), NOTHING: False}
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
        shards, assignment = self._to_read(node), self._assign(node)
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
        if self._limit is None:
            judge(node, pin.digest, done.receipts)

    def _to_read(self, node: Node) -> list[InputShard]:
        """The shards that a stage reads, or of the rows that it makes."""
        if not isinstance(node.config, MakerConfig):
            return self._shards[node.upstream]
        shards = made_shards(node, self._limit)
        if self._limit is None:
            keep_cut(node, shards)
        return shards

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
            records = conclude(node, blocks, lists.receipts, ShardReader(assignment), self._context(node))
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
        record = stage_record(node, done, failed, seconds, pin)
        remarks = [f"stage {node.name}: {remark}" for remark in node.stage.remarks(record.counters)]
        self._warnings.extend(remarks)
        for remark in remarks:
            self._scheduler.progress.say(remark)
        if pin.note:
            self._scheduler.progress.log("info", pin.note, stage=node.name)
        self._records.append(record)


def _input_chain(job: Job) -> str:
    from kxbatch.spec.fingerprint import fingerprint

    return fingerprint(job.spec.input.semantic())
