"""Does one unit of work: read, compute, publish, write the receipt. The same code in this process and on Ray.

A worker answers with a `Receipt` or a `Failure`; it never raises. What happens next follows from the failure's policy.
"""

from __future__ import annotations

import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kxbatch.data.arrays import Arrays, publish_arrays, read_arrays
from kxbatch.data.parts import publish_part
from kxbatch.data.quarantine import Rejected, publish_quarantine
from kxbatch.data.receipts import Receipt, read_receipt, receipt_name, write_receipt
from kxbatch.data.row_draws import held_out
from kxbatch.data.storage import Folder, Published
from kxbatch.engine.assign import Assignment
from kxbatch.engine.cards import ARTIFACT, TRAINING
from kxbatch.engine.failure import Failure, failure_of
from kxbatch.engine.job import make_importable
from kxbatch.engine.lease import LeaseLost, check_token, read_lease
from kxbatch.engine.local_copy import local_copy
from kxbatch.engine.phases.shards import row_numbers
from kxbatch.engine.shard_reader import ShardReader
from kxbatch.engine.surveys import FACTS, HELD_OUT, PASSED, survey_arrays
from kxbatch.engine.units import Unit
from kxbatch.errors import ConfigError, KxbatchError
from kxbatch.spec.model import Resources
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Context, FoldStage, Stage, TrainStage, accounting_phase, checked_rows
from kxbatch.stages.pairs import PairsStage, Side
from kxbatch.stages.registry import stage_types
from kxbatch.stages.task import Task


@dataclass
class _Result:
    """What came out of a unit, before its receipt is written."""

    published: Published
    rows_in: int
    rows_out: int
    rejected: Sequence[Rejected] = ()


class Worker:
    """Works on one stage; loads its model once."""

    def __init__(self, assignment: Assignment) -> None:
        self._a = assignment
        make_importable(Path(assignment.base))
        kind = stage_types()[assignment.config["kind"]]
        config = kind.config_type.model_validate(assignment.config)
        self._stage: Stage[Any] = kind(config, assignment.column)
        self._config = config
        self._output = Folder(assignment.output)
        self._output = self._output.fenced(partial(check_token, self._output, assignment.token))
        self.folder = self._output.child(assignment.stage)
        self.resources: Resources = config.resources
        self._shards = ShardReader(assignment)
        self._opened = ""
        self.label = f"{socket.gethostname()}/{os.getpid()}"

    def run(self, unit: Unit, attempt: int) -> Receipt | Failure:
        """Do a unit; the receipt is on disk when this returns one."""
        started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        context, result = self._context(unit), None
        try:
            result, quarantine = self._work(unit, context), ""
            if unit.phase == accounting_phase(type(self._stage)):
                quarantine = publish_quarantine(
                    self.folder, unit.key, result.rejected, run=self._a.run, name=self._a.stage
                )
            receipt = Receipt(
                phase=unit.phase,
                key=unit.key,
                ingredients=dict(unit.ingredients),
                file=unit.file,
                bytes=result.published.bytes,
                digest=result.published.digest,
                rows_in=result.rows_in,
                rows_out=result.rows_out,
                quarantined=len(result.rejected),
                quarantine_digest=quarantine,
                counters={k: float(v) for k, v in sorted(context.counters.items()) if v},
                run=self._a.run,
                token=self._a.token,
                attempt=attempt,
                host=socket.gethostname(),
                worker=self.label,
                started=started,
                seconds=round(time.perf_counter() - clock, 4),
                peak_rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            )
            write_receipt(self.folder, receipt)
            self._output.fence()
        except Exception as error:
            if isinstance(error, LeaseLost) and result is not None:
                self._disown(unit, result.published)
            return failure_of(error, unit, self.label, attempt)
        return receipt

    def _retract(self, unit: Unit) -> None:
        """No receipt vouches for a file while it changes: if this run dies, a later one must not believe an older receipt."""
        if unit.replaces:
            self.folder.remove(receipt_name(unit.phase, unit.key))

    def _disown(self, unit: Unit, published: Published) -> None:
        """The lease was lost while a unit was published: nobody knows whose file lies there now.

        Unless both are the same, no receipt may vouch for it.
        """
        with suppress(KxbatchError, OSError):
            receipt = read_receipt(self.folder, unit.phase, unit.key)
            if receipt is not None and receipt.digest != published.digest:
                Folder(self.folder.path).remove(receipt_name(unit.phase, unit.key))

    def _work(self, unit: Unit, context: Context) -> _Result:
        if unit.phase == "map":
            return self._map(unit, context)
        if unit.phase == "fold":
            return self._fold(unit, context)
        if unit.phase == "survey":
            return self._survey(unit, context)
        return self._pair(unit, context) if unit.phase == "pairs" else self._gather(unit, context)

    def _context(self, unit: Unit | None = None) -> Context:
        resources = self._config.resources
        references = unit.task.get("references", []) if unit else []
        return Context(
            seed=self._a.seed,
            threads=resources.threads,
            gpus=resources.gpus,
            counters=Counter(),
            artifact=lambda name: read_arrays(self.folder.child(ARTIFACT), name),
            trained=lambda name: local_copy(self._output.child(name, ARTIFACT)),
            facts=lambda: read_arrays(self.folder.child(TRAINING), FACTS),
            ids=lambda rows: self._shards.names(references, rows),
        )

    def _map(self, unit: Unit, context: Context) -> _Result:
        self._open(unit, context)
        table, unread = self._shards.read(unit.task["shard"], [*self._stage.columns, *self._config.keep])
        if unit.task.get("patch"):
            context.patch = read_arrays(self.folder, unit.task["patch"])
        mapped = self._stage.map(table, context)
        checked_rows(self._a.stage, table.num_rows, mapped)
        out = self._assemble(table, mapped.columns, mapped.rejected)
        self._retract(unit)
        published = publish_part(self.folder, unit.file, out, self._a.footer | dict(unit.task["footer"]))
        rejected = [*unread, *mapped.rejected]
        return _Result(published, table.num_rows + len(unread), out.num_rows, rejected)

    def _assemble(self, table: pa.Table, columns: Mapping[str, pa.Array], rejected: Sequence[Rejected]) -> pa.Table:
        kept = _without(table.select(["id", *self._config.keep]), rejected)
        fields = [pa.field(f.name, f.type, nullable=f.name != "id") for f in kept.schema.remove_metadata()]
        fields += [pa.field(name, c.type, nullable=c.null_count > 0) for name, c in columns.items()]
        return pa.table([*kept.columns, *columns.values()], schema=pa.schema(fields))

    def _fold(self, unit: Unit, context: Context) -> _Result:
        assert isinstance(self._stage, FoldStage)
        table, unread = self._shards.read(unit.task["shard"], self._stage.columns)
        if accounting_phase(type(self._stage)) == "fold":
            rejected = self._stage.unusable(table, context)
        else:  # the map phase tells of them
            unread, rejected = [], []
        usable = _without(table, rejected)
        state = self._stage.fold(usable, context)
        self._retract(unit)
        published = publish_arrays(self.folder, unit.file, state)
        return _Result(published, table.num_rows + len(unread), usable.num_rows, [*unread, *rejected])

    def _survey(self, unit: Unit, context: Context) -> _Result:
        assert isinstance(self._stage, TrainStage)
        table, unread = self._shards.read(unit.task["shard"], self._stage.columns)
        survey = self._stage.survey(table, context)
        arrays = survey_arrays(self._a.stage, table.select(["id", *self._stage.columns]), survey)
        context.counters[HELD_OUT] = int(held_out(arrays["keys"], self._stage.training.validation_share).sum())
        context.counters[PASSED] = len(survey.passed)
        self._retract(unit)
        published = publish_arrays(self.folder, unit.file, arrays)
        through = len(survey.sizes) + len(survey.passed)
        return _Result(published, table.num_rows + len(unread), through, [*unread, *survey.rejected])

    def _pair(self, unit: Unit, context: Context) -> _Result:
        assert isinstance(self._stage, PairsStage)
        a = self._shards.read_block(unit.task["a"], self._stage.columns)
        b = self._shards.read_block(unit.task["b"], self._stage.columns) if unit.task["b"] is not None else None
        forward, backward = self._stage.pair(a, b, context)
        arrays = {f"forward.{k}": v for k, v in forward.items()} | {f"backward.{k}": v for k, v in backward.items()}
        rows = a.num_rows + (b.num_rows if b is not None else 0)
        self._retract(unit)
        return _Result(publish_arrays(self.folder, unit.file, arrays), rows, rows)

    def _gather(self, unit: Unit, context: Context) -> _Result:
        assert isinstance(self._stage, PairsStage)
        sides = [Side(row_numbers(s["segments"]), self._side(s["file"], s["side"])) for s in unit.task["sides"]]

        def corpus() -> Iterator[tuple[int, pa.Table]]:
            for first, shard in unit.task["corpus"]:
                yield first, self._shards.read(shard, self._stage.columns)[0]

        arrays = self._stage.gather(row_numbers(unit.task["segments"]), sides, corpus, context)
        self._retract(unit)
        return _Result(publish_arrays(self.folder, unit.file, arrays), unit.rows, unit.rows)

    def _side(self, file: str, side: str) -> Arrays:
        arrays = read_arrays(self.folder, file)
        return {k.removeprefix(f"{side}."): v for k, v in arrays.items() if k.startswith(f"{side}.")}

    def _open(self, unit: Unit, context: Context) -> None:
        """Load the stage's model, again only when the fitted artifact changed."""
        wanted = unit.ingredients.get("artifact", "") or "open"
        if self._opened != wanted:
            self._stage.open(context)
            self._opened = wanted

    def prepare(self, unit: Unit) -> Failure | None:
        """Get ready for units like this one: load what is slow to load, before any clock runs on a shard."""
        try:
            if read_lease(self._output) is None:
                raise ConfigError(
                    f"{self._output.path} is not the same folder on {socket.gethostname()} as where the run was "
                    "started; job.output must be on a file system that every node sees under the same path"
                )
            if unit.phase == "map":
                self._open(unit, self._context(unit))
        except Exception as error:
            return failure_of(error, unit, self.label, 1)
        return None

    @cached_property
    def task(self) -> Task:
        """What the trainer works on, for a stage that trains."""
        assert isinstance(self._stage, TrainStage)
        return self._stage.task(self._context())

    @property
    def training(self) -> TrainingConfig:
        """How the stage trains."""
        assert isinstance(self._stage, TrainStage)
        return self._stage.training

    def training_table(self, shard: Mapping[str, Any]) -> pa.Table:
        """`id` and the stage's columns of a shard."""
        return self._shards.read(shard, self._stage.columns)[0]


def _without(table: pa.Table, rejected: Sequence[Rejected]) -> pa.Table:
    """The rows that were not set aside."""
    if not rejected:
        return table
    mask = np.ones(table.num_rows, bool)
    mask[[row.row for row in rejected]] = False
    return table.filter(pa.array(mask))
