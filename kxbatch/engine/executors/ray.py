"""Units on Ray: one actor pool per stage, a unit in flight for each actor, the model loaded once per actor.

A stage that wants the same resources as the one before takes over its processes, which saves their start.

Ray restarts and retries nothing here: a worker that dies is replaced by us, and the unit it held counts one attempt, so a shard
that kills its workers is parked instead of being tried for ever. An attempt that ended with its whole node is not held against the
unit. Nodes may come and go during a run: there are as many workers as fit on those that are there.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray

from kxbatch.data.filesystems import start_from
from kxbatch.data.receipts import Receipt
from kxbatch.engine.assign import Assignment
from kxbatch.engine.executors.base import Listener, pause_before
from kxbatch.engine.executors.cluster import Cluster, connect
from kxbatch.engine.executors.outcomes import Outcome, blamed, outcome_of
from kxbatch.engine.failure import Failure
from kxbatch.engine.units import Unit
from kxbatch.engine.worker import Worker
from kxbatch.errors import ConfigError, FatalError
from kxbatch.spec.model import Resources
from kxbatch.training.session import Session, Status, Watcher

_POLL = 0.5
_MOST_EXCUSED = (
    10  # a unit under which ten nodes died is no bystander; nor are ten workers in a row that found no place
)


class _Actor:
    """A process that holds one worker at a time."""

    def place(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def prepare(self, assignment: Assignment, unit: Unit) -> Failure | None:
        if getattr(self, "_assignment", None) != assignment:
            start_from(Path(assignment.base))  # Ray started it where the cluster was started
            self._assignment, self._worker = assignment, Worker(assignment)
        return self._worker.prepare(unit)

    def run(self, unit: Unit, attempt: int) -> Receipt | Failure:
        return self._worker.run(unit, attempt)


@dataclass
class _Job:
    """A unit to do.

    Attributes:
        died_on: nodes on which workers died over it.
    """

    unit: Unit
    attempt: int
    not_before: float = 0.0
    died_on: tuple[str, ...] = ()


@dataclass
class _Slot:
    """An actor and what it is doing: it is placed on a node, gets ready, and then does one job after the other."""

    actor: Any
    ref: Any
    deadline: float
    node: str = ""
    ready: bool = False
    job: _Job | None = None


@dataclass
class _Work:
    """What one call of `run` is about."""

    assignment: Assignment
    resources: Resources
    listener: Listener
    queue: deque[_Job]
    first: Unit
    failed_starts: int = 0
    idle_since: float = field(default_factory=time.monotonic)


class RayExecutor:
    """Connects on first use, so that a run with nothing to do starts nothing."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._cluster: Cluster | None = None
        self._owner = False
        self._slots: list[_Slot] = []
        self._held: dict[str, Any] = {}
        self._random = random.Random(0)

    def run(self, assignment: Assignment, resources: Resources, units: Sequence[Unit], listener: Listener) -> None:
        """Do the units on as many workers as fit; see `executors.base`.

        Raises:
            ConfigError: no node can hold a worker.
            FatalError: the cluster, or every node that could hold a worker, is gone.
        """
        if self._cluster is None:
            self._cluster, self._owner = connect(self._address)
        cluster = self._cluster
        cluster.look(now=True)
        if not cluster.ever_fit(resources):
            raise ConfigError(f"{_no_room(cluster, resources)}; lower the stage's resources or use a larger cluster")
        work = _Work(assignment, resources, listener, deque(_Job(unit, 1) for unit in units), units[0])
        if self._held != _options(resources):
            self._end_workers()
        for slot in self._slots[resources.workers or len(self._slots) :]:
            self._dismiss(slot)
        for slot in self._slots:
            slot.ready = False
            if slot.node:
                self._get_ready(slot, work)
        self._loop(cluster, work)

    def _loop(self, cluster: Cluster, work: _Work) -> None:
        self._staff(cluster, work)
        while True:
            stopping = work.listener.stopping()
            if not stopping:
                if cluster.look():
                    self._staff(cluster, work)
                self._hand_out(work)
            if not any(slot.job for slot in self._slots) and (stopping or not work.queue):
                return
            done = self._wait()
            for slot in list(self._slots):
                if (
                    slot in self._slots
                    and slot.ref is not None
                    and (slot.ref in done or time.monotonic() > slot.deadline)
                ):
                    unit, attempt = (slot.job.unit, slot.job.attempt) if slot.job else (None, 1)
                    outcome = outcome_of(slot.ref, slot.ref in done, work.resources, unit, attempt)
                    if not self._settle(slot, outcome, cluster, work):
                        return

    def _wait(self) -> list[Any]:
        """Calls that came back, at least one unless none did for a while."""
        called = [slot.ref for slot in self._slots if slot.ref is not None]
        if called:
            return list(ray.wait(called, num_returns=1, timeout=_POLL)[0])
        time.sleep(0.05)  # every job left waits for its pause to end
        return []

    def _staff(self, cluster: Cluster, work: _Work) -> None:
        """Have as many workers as fit and are of use; those that were never placed may go again.

        Raises:
            FatalError: there is no worker and has been no room for one for too long.
        """
        useful = len(work.queue) + sum(slot.job is not None for slot in self._slots)
        wanted = min(cluster.fits(work.resources), useful, work.resources.workers or useful)
        for slot in [slot for slot in self._slots if not slot.node][: max(0, len(self._slots) - wanted)]:
            self._dismiss(slot)
        while len(self._slots) < wanted and cluster.answers():
            self._held = _options(work.resources)
            actor = ray.remote(_Actor).options(**self._held).remote()
            deadline = time.monotonic() + work.resources.startup_timeout
            self._slots.append(_Slot(actor, actor.place.remote(), deadline))
        if self._slots:
            work.idle_since = time.monotonic()
        elif time.monotonic() - work.idle_since > work.resources.startup_timeout:
            raise FatalError(
                f"{_no_room(cluster, work.resources)} any more, and none came back within "
                f"{work.resources.startup_timeout:g} s (resources.startup_timeout); finished shards are kept, "
                "run the same command again when there are nodes"
            )

    def _hand_out(self, work: _Work) -> None:
        queue = work.queue
        for slot in self._slots:
            if slot.ready and slot.job is None and queue:
                for _ in range(len(queue)):
                    if queue[0].not_before <= time.monotonic():
                        break
                    queue.rotate(-1)
                else:
                    return
                slot.job = queue.popleft()
                slot.ref = slot.actor.run.remote(slot.job.unit, slot.job.attempt)
                slot.deadline = time.monotonic() + work.resources.timeout

    def _settle(self, slot: _Slot, outcome: Outcome, cluster: Cluster, work: _Work) -> bool:
        """Take in what a slot's call came to. False: the run cannot go on."""
        job, slot.ref, slot.job = slot.job, None, None
        if isinstance(outcome, Failure) and not outcome.worker:  # the process is gone or hangs: do not use it again
            self._dismiss(slot)
        if job is None:
            return self._settle_start(slot, outcome, cluster, work)
        self._settle_job(job, slot.node, outcome, cluster, work)
        if slot not in self._slots and not work.listener.stopping():
            self._staff(cluster, work)
        return True

    def _settle_start(self, slot: _Slot, outcome: Outcome, cluster: Cluster, work: _Work) -> bool:
        if isinstance(outcome, str):
            slot.node = outcome
            self._get_ready(slot, work)
            return True
        if not isinstance(outcome, Failure):
            slot.ready, work.failed_starts = True, 0
            return True
        if not slot.node and any(other.ready for other in self._slots):
            return True  # somebody else has taken the room; those who found a place go on
        if not outcome.worker and slot.node and cluster.lost(slot.node):
            return True
        if outcome.policy == "retry" and outcome.error != "Timeout":
            if slot in self._slots:
                self._dismiss(slot)
            work.failed_starts += 1
            most = work.resources.attempts if slot.node else _MOST_EXCUSED  # without a place it ran nothing of the job
            if work.failed_starts < most:
                return True
        if not slot.node and outcome.error == "Timeout":
            limit = f"{work.resources.startup_timeout:g} s (resources.startup_timeout)"
            message = (
                f"no worker found room on the cluster within {limit}; nodes: {cluster.words()}, others may use them"
            )
            outcome = replace(outcome, message=message)
        where = f" (worker {outcome.worker}, which did not get ready)" if outcome.worker else ""
        work.listener.on_failure(replace(outcome, policy="stop", message=f"{outcome.message}{where}"))
        return False

    def _settle_job(self, job: _Job, node: str, outcome: Outcome, cluster: Cluster, work: _Work) -> None:
        if isinstance(outcome, Receipt):
            work.failed_starts = 0
            work.listener.on_receipt(outcome)
        elif isinstance(outcome, Failure):
            died_on = job.died_on if outcome.worker else (*job.died_on, node)
            excused = min(_MOST_EXCUSED, sum(cluster.lost(place) for place in died_on))
            if outcome.policy == "retry" and job.attempt - excused < work.resources.attempts:
                pause = pause_before(job.attempt, self._random)
                work.queue.append(_Job(job.unit, job.attempt + 1, time.monotonic() + pause, died_on))
            else:
                work.listener.on_failure(blamed(outcome, job.unit))

    def _get_ready(self, slot: _Slot, work: _Work) -> None:
        slot.ref = slot.actor.prepare.remote(work.assignment, work.first)
        slot.deadline = time.monotonic() + work.resources.startup_timeout

    def _dismiss(self, slot: _Slot) -> None:
        if self._cluster is not None and self._cluster.answers():  # ray.kill would wait for it
            ray.kill(slot.actor, no_restart=True)
        self._slots.remove(slot)

    def _end_workers(self) -> None:
        for slot in list(self._slots):
            self._dismiss(slot)

    def train(self, session: Session, resources: Resources, watcher: Watcher) -> Status:
        """Train on as many workers as the stage asks for.

        Raises:
            ConfigError: they do not fit on the cluster.
            KxbatchError: see `training.ray_train.train_on_ray`.
        """
        from kxbatch.training.ray_train import train_on_ray  # torch

        if self._cluster is None:
            self._cluster, self._owner = connect(self._address)
        self._end_workers()
        self._cluster.look(now=True)
        fit, wanted = self._cluster.fits(resources), session.config.workers
        if fit < wanted:
            raise ConfigError(
                f"stage {session.name}: {wanted} workers with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs each do not "
                f"fit on the cluster, {fit} would (nodes: {self._cluster.words()}); lower training.workers or the "
                "stage's resources: the model comes out the same"
            )
        return train_on_ray(session, resources, watcher)

    def close(self) -> None:
        """End the workers, and the local cluster if this executor started it."""
        if self._cluster is not None:
            self._end_workers()
            if self._owner and self._cluster.answers():
                ray.shutdown()
            self._cluster = None


def _options(resources: Resources) -> dict[str, Any]:
    """What Ray is asked for."""
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory is not None:
        options["memory"] = resources.memory
    return options | {"max_restarts": 0, "max_task_retries": 0}


def _no_room(cluster: Cluster, resources: Resources) -> str:
    """Why there is no worker."""
    return (
        f"no node can hold a worker with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs (nodes: {cluster.words()})"
    )
