"""The state of a run, told from what it left: lease, `progress.json`, `run.json` and the log."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kxbatch.data.documents import Document, read_document
from kxbatch.data.receipts import BOOKKEEPING, Count
from kxbatch.data.storage import Folder, output_folder
from kxbatch.engine.defects import read_defects
from kxbatch.engine.lease import is_held, read_lease
from kxbatch.engine.record import StageName, read_record
from kxbatch.errors import ConfigError

PROGRESS = "progress.json"
_TAIL = 262_144
_LAST_ERRORS = 5


class _Phase(Document):
    stage: StageName
    phase: str
    units: Count
    done: Count
    failed: Count
    rows: Count
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None


class _Progress(Document):
    run: str
    status: str
    started: str
    phases: list[_Phase]
    updated: str
    exit_code: int | None = None


_SHAPE = TypeAdapter(_Progress)


@dataclass
class Status:
    """How a run stands.

    Attributes:
        output: the folder.
        state: `running`, `died`, or how the last run ended: done, unchanged, incomplete, stopped, interrupted.
        run: id of the run.
        exit_code: of a run that ended.
        message: why it is not done.
        holder: host, process, since and heartbeat of the lease, where a run holds or held it.
        started: when the run started.
        ended: when it ended.
        phases: stage, phase, units, done, failed and rows, of the run's phases so far. A training has steps for units, and
            loss, tokens_per_second and seconds_left from its first line on.
        stages: what each stage came to, in the last run that did something.
        errors: the last error lines of the run.
        defects: units that verify found defective and no run has mended.
        next: what to type next, empty where there is nothing to do.
    """

    output: str
    state: str
    run: str
    exit_code: int | None = None
    message: str = ""
    holder: dict[str, Any] | None = None
    started: str | None = None
    ended: str | None = None
    phases: list[dict[str, Any]] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    defects: int = 0
    next: str = ""


def status(path: str | Path) -> Status:
    """Look at an output; writes nothing.

    Raises:
        ConfigError: no run ever wrote here.
    """
    output = output_folder(str(path), Path.cwd())
    lease = read_lease(output)
    record = read_record(output) or {}
    progress = read_document(output, PROGRESS, _SHAPE, "remove it, a run writes it anew") or {}
    if lease is None and not record:
        what = "no run ever wrote here" if output.exists(BOOKKEEPING) else "no output of kxbatch"
        raise ConfigError(
            f"{output.path}: {what if output.exists() else 'does not exist'}; give the folder of job.output"
        )
    run = lease["run"] if lease else record["run"]
    current = progress if progress.get("run") == run else {}
    held = lease is not None and is_held(lease)
    found = Status(output.path, "running" if held else "died", run, holder=lease)
    found.started, found.phases = current.get("started"), current.get("phases", [])
    if not held and record.get("run") == run:
        found.state, found.exit_code, found.message = record["status"], record["exit_code"], record["message"]
        found.started, found.ended = record["started"], record["ended"]
    elif not held and current.get("status", "running") != "running":  # it had nothing to add to run.json
        found.state, found.exit_code, found.ended = current["status"], current.get("exit_code"), current["updated"]
    if found.ended and record:
        found.stages = [{k: v for k, v in stage.items() if k != "units"} for stage in record["stages"]]
    found.errors = last_errors(output, run)
    found.defects = sum(len(keys) for keys in read_defects(output).values())
    found.next = _next(found)
    return found


def last_errors(output: Folder, run: str) -> list[str]:
    """The last error lines of a run, from the end of its log."""
    try:
        with output.file("log.jsonl").open() as log:
            log.seek(max(0, log.size() - _TAIL))
            lines = log.read().splitlines()
    except FileNotFoundError:
        return []
    entries = [entry for line in lines if (entry := _entry(line)) and entry.get("run") == run]
    errors = [entry for entry in entries if entry.get("level") == "error"]
    return [_line(entry) for entry in errors[-_LAST_ERRORS:]]


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:  # the first line of the tail, or the last one of a run that was killed
        return None
    return entry if isinstance(entry, dict) else None


def _line(entry: dict[str, Any]) -> str:
    where = [f"{key} {entry[key]}" for key in ("stage", "shard") if key in entry]
    return f"{entry['time']} {', '.join(where)}{': ' if where else ''}{entry.get('message', '')}"


def _next(found: Status) -> str:
    again = "run the same command again; what is finished is kept"
    if found.state == "died":
        return f"the run ended without a word (killed, or the machine went down): {again}"
    if found.state == "interrupted":
        return again
    if found.state in ("incomplete", "stopped"):
        return f"mend the cause, then {again}"
    if found.defects:
        return "`kxbatch run` with the same job does the defective units again"
    return ""
