"""Completes sets of units: looks at receipts, hands what is missing to the executor, counts, and keeps the budget."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from kxbatch.data.quarantine import quarantine_name
from kxbatch.data.receipts import Receipt, read_receipts, receipt_name
from kxbatch.engine.assign import Assignment
from kxbatch.engine.executors.base import Executor, Listener
from kxbatch.engine.failure import Failure
from kxbatch.engine.job import Node
from kxbatch.engine.progress import Progress
from kxbatch.engine.training_session import TrainingSession
from kxbatch.engine.units import Unit, judge, part_file
from kxbatch.errors import BudgetExceeded, FatalError, KxbatchError
from kxbatch.spec.model import QuarantineBudget
from kxbatch.stages.base import accounting_phase


class Interrupted(KxbatchError):
    """A signal asked the run to end; units in flight were finished."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"ended by signal {signal}; finished shards are kept, run the same command again to go on")
        self.exit_code = 128 + signal


class Stopped(KxbatchError):
    """A failure that no other shard would escape."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.exit_code = failure.exit_code if failure.exit_code in (2, 4) else 1
        self.failure = failure


@dataclass
class Completed:
    """A phase after its units were run.

    Attributes:
        receipts: of every unit that is done now, by key.
        fresh: keys that this run did.
        failed: units that could not be done.
        rows: rows that the units read.
        aside: of these, rows set aside.
    """

    receipts: dict[str, Receipt] = field(default_factory=dict)
    fresh: set[str] = field(default_factory=set)
    failed: list[Failure] = field(default_factory=list)
    rows: int = 0
    aside: int = 0

    def add(self, receipt: Receipt) -> None:
        """A unit is done."""
        self.receipts[receipt.key] = receipt
        self.rows += receipt.rows_in
        self.aside += receipt.quarantined


@dataclass(frozen=True)
class _Watching:
    """Looks on while a stage trains."""

    scheduler: Scheduler
    stage: str

    def tell(self, facts: dict[str, Any]) -> None:
        self.scheduler.progress.trained(self.stage, facts)

    def stopping(self) -> bool:
        return self.scheduler.signal() != 0


@dataclass
class Scheduler:
    """Runs the units of one stage after the other.

    Attributes:
        executor: gives what runs units; asked only when there are some.
        progress: whom to tell.
        budget: rows that may be set aside.
        signal: number of the signal that came in, 0 for none.
        redo: stage -> keys to do again.
        sweep: whether units that should no longer exist are removed (not with a row limit).
        shards: keys of all shards of the corpus, those too that cannot be done now.
    """

    executor: Callable[[], Executor]
    progress: Progress
    budget: QuarantineBudget
    signal: Callable[[], int]
    redo: Mapping[str, frozenset[str]]
    sweep: bool
    shards: frozenset[str] = frozenset()

    def complete(
        self, node: Node, assignment: Assignment, phase: str, units: Sequence[Unit], *, whole: bool = True
    ) -> Completed:
        """Do the units that are not done.

        Args:
            node: the stage.
            assignment: for its workers.
            phase: which phase.
            units: of the phase.
            whole: whether these are all units there should be; false where something above failed.

        Raises:
            Interrupted: a signal came in.
            Stopped: a failure no shard would escape.
            BudgetExceeded: too many rows of this stage are set aside.
        """
        receipts = read_receipts(node.folder, phase)
        redo = self.redo.get(node.name, frozenset())
        judged = judge(units, receipts, node.folder, redo)
        missing = [replace(j.unit, replaces=j.unit.key in receipts) for j in judged if j.state != "done"]
        result = Completed()
        for j in judged:
            if j.state == "done":
                result.add(receipts[j.unit.key])
        self.progress.begin(node.name, phase, units, [unit.key for unit in missing])
        if missing:
            self._run(node, assignment, phase, units, missing, result)
        if result.failed:  # a unit may fail after its receipt came to be seen
            receipts = read_receipts(node.folder, phase)
        if self.sweep and (whole or phase in ("fold", "survey", "map")):
            wanted = {unit.key for unit in units} | (frozenset() if whole else self.shards)
            self._sweep(node, phase, receipts, wanted, result.receipts)
        if phase == accounting_phase(type(node.stage)):
            self._check_budget(node, result, len(units), final=True)
        return result

    def train(self, node: Node, session: TrainingSession) -> None:
        """Train a stage's model.

        Raises:
            Interrupted: a signal came in; the state is saved.
            KxbatchError: it cannot be trained.
        """
        watcher = _Watching(self, node.name)
        self.progress.training(node.name)
        try:
            status = self.executor().train(session, node.config.resources, watcher)
        except KxbatchError:
            raise
        except Exception as error:
            self.progress.log("error", str(error), stage=node.name, trace=traceback.format_exc())
            raise FatalError(f"stage {node.name}: training ended with {type(error).__name__}: {error}") from error
        if status == "interrupted":
            raise Interrupted(self.signal())

    def _run(
        self,
        node: Node,
        assignment: Assignment,
        phase: str,
        units: Sequence[Unit],
        missing: Sequence[Unit],
        result: Completed,
    ) -> None:
        stop: list[KxbatchError] = []

        def on_receipt(receipt: Receipt) -> None:
            result.add(receipt)
            result.fresh.add(receipt.key)
            self.progress.finished(node.name, receipt)
            if phase == accounting_phase(type(node.stage)):
                try:
                    self._check_budget(node, result, len(units), final=False)
                except BudgetExceeded as error:
                    stop.append(error)

        def on_failure(failure: Failure) -> None:
            result.failed.append(failure)
            self.progress.failed(node.name, failure)
            if failure.policy == "stop":
                stop.append(Stopped(failure))

        def stopping() -> bool:
            return bool(stop) or self.signal() != 0

        self.executor().run(assignment, node.config.resources, missing, Listener(on_receipt, on_failure, stopping))
        if stop:
            raise stop[0]
        if self.signal():
            raise Interrupted(self.signal())

    def _check_budget(self, node: Node, result: Completed, units: int, *, final: bool) -> None:
        """The count stops a run at once; the share is known when all shards are."""
        aside, rows = result.aside, result.rows
        over_count = aside > self.budget.max_rows
        over_share = final and len(result.receipts) == units and rows and aside / rows > self.budget.max_share
        if over_count or over_share:
            limit = f"max_rows = {self.budget.max_rows}" if over_count else f"max_share = {self.budget.max_share:g}"
            raise BudgetExceeded(
                f"stage {node.name}: {aside} of {rows} rows were set aside, over job.quarantine.{limit}; "
                f"look at them with `kxbatch quarantine show`, mend the input or raise the limit, and run again"
            )

    def _sweep(
        self,
        node: Node,
        phase: str,
        receipts: Mapping[str, Receipt],
        wanted: Set[str],
        valid: Mapping[str, Receipt],
    ) -> None:
        """Units of shards that are gone, and parts that no receipt vouches for: readers of the folder would take them for data.

        The receipt goes first, so that nothing points to a missing file.
        """
        for key, receipt in receipts.items():
            if key not in wanted:
                node.folder.remove(receipt_name(receipt.phase, key))
                if phase == accounting_phase(type(node.stage)):
                    node.folder.remove(quarantine_name(key))
                node.folder.remove(receipt.file)
        if phase == "map":
            vouched = {part_file(key) for key in [*valid, *receipts]}
            for name in set(node.folder.names(".parquet")) - vouched:
                node.folder.remove(name)
