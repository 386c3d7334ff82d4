"""Units on Ray: one actor pool per stage, a unit in flight for each actor, the model loaded once per actor.

A stage that wants the same resources as the one before takes over its processes, which saves their start.

Ray restarts and retries nothing here: a worker that dies is replaced by us, and the unit it held counts one attempt, so a shard
that kills its workers is parked instead of being tried for ever.
"""

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import ray
import ray.exceptions

from kxbatch.data.receipts import Receipt
from kxbatch.engine.executors.base import Listener, pause_before
from kxbatch.engine.units import Unit
from kxbatch.engine.worker import Assignment, Failure, Worker
from kxbatch.errors import ConfigError, FatalError
from kxbatch.spec.model import Resources

_OBJECT_STORE = 200 * 2**20  # workers read storage themselves; the object store carries only messages
_POLL = 0.5


class _Actor:
    """A process that holds one worker at a time."""

    def prepare(self, assignment: Assignment, unit: Unit) -> Failure | None:
        if getattr(self, "_assignment", None) != assignment:
            self._assignment, self._worker = assignment, Worker(assignment)
        return self._worker.prepare(unit)

    def run(self, unit: Unit, attempt: int) -> Receipt | Failure:
        return self._worker.run(unit, attempt)


@dataclass
class _Job:
    unit: Unit
    attempt: int
    not_before: float = 0.0


@dataclass
class _Slot:
    """An actor and what it is doing: `job` None while it gets ready or waits."""

    actor: Any
    ref: Any
    deadline: float
    ready: bool = False
    job: _Job | None = None


class RayExecutor:
    """Connects on first use, so that a run with nothing to do starts nothing."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._connected = self._owner = False
        self._slots: list[_Slot] = []
        self._held: dict[str, Any] = {}
        self._random = random.Random(0)

    def run(self, assignment: Assignment, resources: Resources, units: Sequence[Unit], listener: Listener) -> None:
        """Do the units on as many workers as fit; see `executors.base`."""
        self._connect()
        queue = deque(_Job(unit, 1) for unit in units)
        wanted = min(len(queue), _capacity(resources))
        if self._held != _options(resources):
            self._end_workers()
        self._end_workers(beyond=resources.workers)
        for slot in self._slots:
            self._get_ready(slot, assignment, queue[0].unit, resources)
        while len(self._slots) < wanted:
            self._slots.append(self._start(assignment, resources, queue[0].unit))
        self._loop(assignment, resources, queue, listener)

    def _loop(self, assignment: Assignment, resources: Resources, queue: deque[_Job], listener: Listener) -> None:
        first = queue[0].unit
        while True:
            stopping = listener.stopping()
            if not stopping:
                self._hand_out(queue, resources)
            busy = [slot for slot in self._slots if slot.ref is not None and not (stopping and slot.job is None)]
            if not busy and (stopping or not queue):
                return
            if not busy:
                time.sleep(0.05)  # every job left waits for its pause to end
                continue
            done, _ = ray.wait([slot.ref for slot in busy], num_returns=1, timeout=_POLL)
            for slot in busy:
                if slot.ref in done or time.monotonic() > slot.deadline:
                    if not self._settle(slot, slot.ref in done, queue, resources, listener):
                        return
                    if slot.actor is None and queue and not listener.stopping():
                        replacement = self._start(assignment, resources, first)
                        self._slots[self._slots.index(slot)] = replacement
            self._slots = [slot for slot in self._slots if slot.actor is not None]
            if not self._slots and queue and not listener.stopping():
                self._slots.append(self._start(assignment, resources, first))

    def _hand_out(self, queue: deque[_Job], resources: Resources) -> None:
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
                slot.deadline = time.monotonic() + resources.timeout

    def _settle(
        self, slot: _Slot, finished: bool, queue: deque[_Job], resources: Resources, listener: Listener
    ) -> bool:
        """Take in what a slot's call came to. False: the run cannot go on."""
        job, outcome = slot.job, _outcome(slot, finished, resources)
        slot.ref, slot.job = None, None
        if isinstance(outcome, Failure) and outcome.worker == "":  # the process is gone or hangs: do not use it again
            ray.kill(slot.actor, no_restart=True)
            slot.actor = None
        if job is None:
            slot.ready = True
            if isinstance(outcome, Failure):
                listener.on_failure(replace(outcome, policy="stop"))
                return False
        elif isinstance(outcome, Receipt):
            listener.on_receipt(outcome)
        elif isinstance(outcome, Failure) and outcome.policy == "retry" and job.attempt < resources.attempts:
            queue.append(_Job(job.unit, job.attempt + 1, time.monotonic() + pause_before(job.attempt, self._random)))
        elif isinstance(outcome, Failure):
            listener.on_failure(outcome)
        return True

    def _start(self, assignment: Assignment, resources: Resources, unit: Unit) -> _Slot:
        self._held = _options(resources)
        slot = _Slot(ray.remote(_Actor).options(**self._held).remote(), None, 0.0)
        self._get_ready(slot, assignment, unit, resources)
        return slot

    def _get_ready(self, slot: _Slot, assignment: Assignment, unit: Unit, resources: Resources) -> None:
        slot.ready, slot.job = False, None
        slot.ref = slot.actor.prepare.remote(assignment, unit)
        slot.deadline = time.monotonic() + resources.startup_timeout

    def _end_workers(self, beyond: int | None = 0) -> None:
        """End all workers but the first `beyond`; None: keep all."""
        if beyond is not None:
            for slot in self._slots[beyond:]:
                ray.kill(slot.actor, no_restart=True)
            del self._slots[beyond:]

    def close(self) -> None:
        """End the workers, and the local cluster if this executor started it."""
        if self._connected:
            self._end_workers()
            if self._owner:
                ray.shutdown()
            self._connected = False

    def _connect(self) -> None:
        if self._connected:
            return
        if not ray.is_initialized():
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # numba cannot compile a print that Ray has replaced
            address = self._address or os.environ.get("RAY_ADDRESS")
            local: dict[str, Any] = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
            handlers = _signal_handlers()
            try:
                if address:
                    knock(address)
                ray.init(
                    address=address or "local",
                    logging_level=logging.ERROR,
                    log_to_driver=False,
                    **({} if address else local),
                )
            except (OSError, ValueError, RuntimeError) as error:
                raise FatalError(
                    f"Ray at {address or 'this machine'}: cannot connect: {error}; "
                    "is the cluster up, the address right, RAY_AUTH_MODE=token set where it wants a token?"
                ) from error
            self._owner = True
            for number, handler in handlers.items():  # Ray puts its own in their place
                signal.signal(number, handler)
        self._connected = True


def knock(address: str) -> None:
    """Open and close a connection: Ray itself tries an address where nobody answers for minutes.

    Raises:
        OSError: nobody answers.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def _signal_handlers() -> dict[int, Any]:
    """The handlers of this process; empty outside the main thread, which alone can set them."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _options(resources: Resources) -> dict[str, Any]:
    """What Ray is asked for."""
    options: dict[str, Any] = {"num_cpus": resources.cpus, "num_gpus": resources.gpus}
    if resources.memory is not None:
        options["memory"] = resources.memory
    return options | {"max_restarts": 0, "max_task_retries": 0}


def _outcome(slot: _Slot, finished: bool, resources: Resources) -> Receipt | Failure | None:
    """The answer of a call, or a failure made from its silence or its death."""
    phase, key = (slot.job.unit.phase, slot.job.unit.key) if slot.job else ("start", "worker")
    attempt = slot.job.attempt if slot.job else 1
    if not finished:
        limit, knob = (
            (resources.timeout, "resources.timeout")
            if slot.job
            else (resources.startup_timeout, "resources.startup_timeout")
        )
        message = f"no answer within {limit:g} s ({knob}); the worker was ended"
        return Failure(phase, key, "Timeout", message, "retry", 3, attempt=attempt)
    try:
        answer: Receipt | Failure | None = ray.get(slot.ref)
    except ray.exceptions.OutOfMemoryError:
        message = "the worker ran out of memory and was ended; lower input.shard_size or raise resources.memory"
        return Failure(phase, key, "OutOfMemory", message, "retry", 3, attempt=attempt)
    except ray.exceptions.RayActorError as error:
        return Failure(phase, key, "WorkerDied", f"the worker died: {_short(error)}", "retry", 3, attempt=attempt)
    except ray.exceptions.RayError as error:
        return Failure(phase, key, type(error).__name__, _short(error), "retry", 3, attempt=attempt)
    return answer


def _short(error: Exception) -> str:
    """Ray's long messages, cut down to the sentence that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if "error_type" in line.lower() or "exit" in line.lower() or "killed" in line.lower()
    ]
    return (told or lines or [type(error).__name__])[0][:300]


def _capacity(resources: Resources) -> int:
    """Workers that fit on the cluster as it is now.

    Raises:
        ConfigError: not one fits.
    """
    fits, nodes = 0, []
    for node in ray.nodes():
        if node["Alive"]:
            have = node["Resources"]
            cpus, gpus = have.get("CPU", 0.0), have.get("GPU", 0.0)
            nodes.append(f"{cpus:g} CPUs, {gpus:g} GPUs")
            fits += int(min(cpus / resources.cpus, gpus / resources.gpus if resources.gpus else float("inf")))
    if fits == 0:
        raise ConfigError(
            f"no node can hold a worker with {resources.cpus:g} CPUs and {resources.gpus:g} GPUs "
            f"(nodes: {'; '.join(nodes) or 'none'}); lower the stage's resources or use a larger cluster"
        )
    return min(fits, resources.workers) if resources.workers else fits
