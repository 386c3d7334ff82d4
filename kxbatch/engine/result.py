"""What a run came to, and each of its stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kxbatch.data.receipts import Receipt
from kxbatch.engine.failure import Failure
from kxbatch.engine.job import Node
from kxbatch.engine.phases.folding import Pin
from kxbatch.engine.phases.judging import totals
from kxbatch.engine.record import StageRecord
from kxbatch.engine.scheduler import Completed


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


def stage_record(node: Node, done: Completed, failed: int, seconds: float, pin: Pin) -> StageRecord:
    """What one stage did.

    Args:
        node: the stage.
        done: its last phase.
        failed: units of an earlier phase that could not be done.
        seconds: it took.
        pin: what it fitted or trained.
    """
    receipts = [done.receipts[key] for key in sorted(done.receipts)]
    fresh = sum(receipt.rows_out for receipt in receipts if receipt.key in done.fresh)
    return StageRecord(
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
        counters=dict(sorted(totals(receipts).items())),
        note=pin.note,
        units=[_unit_record(r, r.key not in done.fresh) for r in receipts],
    )


def _unit_record(receipt: Receipt, reused: bool) -> dict[str, Any]:
    return {
        "key": receipt.key,
        "seconds": receipt.seconds,
        "rows": receipt.rows_out,
        "worker": receipt.worker,
        "reused": reused,
    }
