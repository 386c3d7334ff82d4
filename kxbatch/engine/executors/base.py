"""The contract of executors.

`run` hands every unit to a worker, calls `on_receipt` or `on_failure` once for each that ended, and returns when none is left or
`stopping()` says so (in-flight units finish first). A unit that fails with policy `retry` is tried again, after a pause,
up to `resources.attempts`; then it is parked and reported like any other failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kxbatch.data.receipts import Receipt
from kxbatch.engine.assign import Assignment
from kxbatch.engine.failure import Failure
from kxbatch.engine.units import Unit
from kxbatch.spec.model import Resources
from kxbatch.training.session import Session, Status, Watcher


@dataclass(frozen=True)
class Listener:
    """Whom an executor tells what."""

    on_receipt: Callable[[Receipt], None]
    on_failure: Callable[[Failure], None]
    stopping: Callable[[], bool]


class Executor(Protocol):
    """Runs units of one stage."""

    def run(self, assignment: Assignment, resources: Resources, units: Sequence[Unit], listener: Listener) -> None:
        """Do the units; see the module."""

    def train(self, session: Session, resources: Resources, watcher: Watcher) -> Status:
        """Train one model, from its newest state on.

        Raises:
            KxbatchError: see `training.loop.train`; also when workers died more often than `resources.attempts` allows.
        """

    def close(self) -> None:
        """Free everything."""


def pause_before(attempt: int, draw: random.Random) -> float:
    """Seconds to wait before a further attempt: doubling, with jitter, 30 s at most."""
    return float(min(30.0, 0.25 * 2**attempt) * draw.uniform(0.5, 1.0))
