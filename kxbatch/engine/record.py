"""What a run leaves for people and monitors: `run.json` and `metrics.prom`."""

from __future__ import annotations

import importlib.metadata
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, TypeAdapter

from kxbatch.data.documents import Document, read_document
from kxbatch.data.receipts import Count
from kxbatch.data.storage import Folder
from kxbatch.engine.job import Job, Node
from kxbatch.engine.manifest import CorpusPlan
from kxbatch.errors import FatalError
from kxbatch.spec.fingerprint import fingerprint

if TYPE_CHECKING:
    from kxbatch.engine.result import RunResult

RECORD = "run.json"
_PACKAGES = ("kxbatch", "numpy", "polars", "pyarrow", "ray", "torch")


@dataclass
class StageRecord:
    """What one stage did in a run."""

    name: str
    kind: str
    upstream: str
    shards: int
    failed: int
    rows_in: int
    rows_out: int
    rows_quarantined: int
    seconds: float
    rows_per_second: float
    peak_rss: int
    counters: dict[str, float]
    note: str
    units: list[dict[str, Any]]


StageName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")]  # it names a folder


class _Unit(Document):
    key: Annotated[str, Field(pattern=r"^part-[0-9]{5,9}$")]


class _Stage(Document):
    name: StageName
    shards: Count
    failed: Count
    rows_in: Count
    rows_out: Count
    rows_quarantined: Count
    seconds: float
    units: list[_Unit]


class _StageConfig(Document):
    name: StageName
    kind: str
    input: StageName | None
    column: str | None = None


class _Job(Document):
    name: str
    output: str
    input: dict[str, Any]
    stage: Annotated[list[_StageConfig], Field(min_length=1)]


class _Record(Document):
    run: str
    status: str
    exit_code: int
    message: str
    job: _Job
    fingerprint: str
    started: str
    ended: str
    stages: list[_Stage]


_SHAPE = TypeAdapter(_Record)


def read_record(output: Folder) -> dict[str, Any] | None:
    """`run.json`, None where there is none.

    Raises:
        FatalError: it is damaged.
    """
    mend = "restore it, or remove it and run the job again, which writes it anew"
    record: dict[str, Any] | None = read_document(output, RECORD, _SHAPE, mend)
    return record


def publish_record(job: Job, result: RunResult, corpus: CorpusPlan, nodes: Sequence[Node], run: str) -> None:
    """Write `run.json` and `metrics.prom`.

    A run that found everything done leaves the record of the run that did it: that is the one with something to tell.
    """
    job.output.publish_bytes("metrics.prom", _metrics(job, result).encode())
    chain = fingerprint([node.chain for node in nodes])
    if result.status == "unchanged" and _tells_the_same(_earlier(job.output), result, chain):
        return
    resolved = job.spec.model_dump(mode="json")
    ended = datetime.now(UTC)
    document = {
        "run": run,
        "status": result.status,
        "exit_code": result.exit_code,
        "message": result.message,
        "job": resolved["job"] | {"input": resolved["input"], "stage": resolved["stage"]},
        "fingerprint": chain,
        "versions": versions(),
        "started": datetime.fromtimestamp(ended.timestamp() - result.seconds, UTC).isoformat(timespec="seconds"),
        "ended": ended.isoformat(timespec="seconds"),
        "seconds": round(result.seconds, 3),
        "input": {"files": len(corpus.sources), "shards": len(corpus.shards()), "rows": corpus.rows},
        "stages": [vars(stage) for stage in result.stages],
        "failures": [
            {"phase": f.phase, "key": f.key, "error": f.error, "message": f.message, "attempts": f.attempt}
            for f in result.failures
        ],
        "warnings": result.warnings,
    }
    job.output.publish_json(RECORD, document)


def _earlier(output: Folder) -> dict[str, Any] | None:
    try:
        return read_record(output)
    except FatalError:  # this run writes it anew
        return None


def _tells_the_same(record: dict[str, Any] | None, result: RunResult, chain: str) -> bool:
    if record is None or record["exit_code"] != 0 or record["fingerprint"] != chain:
        return False
    then = [[unit["key"] for unit in stage["units"]] for stage in record["stages"]]
    return then == [[unit["key"] for unit in stage.units] for stage in result.stages]


def versions() -> dict[str, str]:
    """Python and the packages that decide results."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _metrics(job: Job, result: RunResult) -> str:
    """Prometheus text format, for the textfile collector."""
    label = f'job="{job.spec.job.name}"'
    lines = [
        "# TYPE kxbatch_last_exit_code gauge",
        f"kxbatch_last_exit_code{{{label}}} {result.exit_code}",
        "# TYPE kxbatch_last_run_timestamp_seconds gauge",
        f"kxbatch_last_run_timestamp_seconds{{{label}}} {time.time():.0f}",
        "# TYPE kxbatch_duration_seconds gauge",
        f"kxbatch_duration_seconds{{{label}}} {result.seconds:.3f}",
    ]
    for name in ("rows_out", "rows_quarantined", "shards", "failed", "seconds"):
        lines.append(f"# TYPE kxbatch_stage_{name} gauge")
        lines += [f'kxbatch_stage_{name}{{{label},stage="{s.name}"}} {getattr(s, name)}' for s in result.stages]
    return "\n".join(lines) + "\n"
