"""Everything in this process, one unit after the other: for the debugger, tests and small jobs."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from kxbatch.data.receipts import Receipt
from kxbatch.engine.assign import Assignment
from kxbatch.engine.executors.base import Listener, pause_before
from kxbatch.engine.failure import Failure
from kxbatch.engine.units import Unit
from kxbatch.engine.worker import Worker
from kxbatch.spec.model import Resources
from kxbatch.training.session import Session, Status, Watcher


class InlineExecutor:
    """One worker, which lives as long as its stage."""

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._assignment: Assignment | None = None
        self._random = random.Random(0)

    def run(self, assignment: Assignment, resources: Resources, units: Sequence[Unit], listener: Listener) -> None:
        """Do the units in order."""
        if self._worker is None or self._assignment != assignment:
            self._assignment, self._worker = assignment, Worker(assignment)
        for unit in units:
            if listener.stopping():
                return
            outcome = self._attempt(self._worker, unit, resources.attempts, listener)
            if isinstance(outcome, Receipt):
                listener.on_receipt(outcome)
            else:
                listener.on_failure(outcome)

    def _attempt(self, worker: Worker, unit: Unit, attempts: int, listener: Listener) -> Receipt | Failure:
        for attempt in range(1, attempts + 1):
            outcome = worker.run(unit, attempt)
            if isinstance(outcome, Receipt) or outcome.policy != "retry" or listener.stopping():
                break
            if attempt < attempts:
                time.sleep(pause_before(attempt, self._random))
        return outcome

    def train(self, session: Session, resources: Resources, watcher: Watcher) -> Status:
        """Train in this process; what fails is not tried again, for nothing would be different."""
        from kxbatch.training.inline import train_here  # torch

        self._worker = self._assignment = None  # its model would take up memory
        return train_here(session, watcher)

    def close(self) -> None:
        """Nothing is left to free."""
        self._worker = None
