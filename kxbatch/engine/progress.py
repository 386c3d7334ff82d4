"""What a run is doing, for three readers: a person at a terminal, a log file, and `progress.json`."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from kxbatch.data.receipts import Receipt
from kxbatch.data.storage import Folder
from kxbatch.engine.failure import Failure
from kxbatch.engine.units import Unit
from kxbatch.errors import KxbatchError

LINE_EVERY = 30.0
FILE_EVERY = 2.0


class Progress:
    """Bars on a terminal, a line every 30 s elsewhere; JSON lines in `log.jsonl`; the state of now in `progress.json`."""

    def __init__(self, output: Folder, run: str, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._output, self._run = output, run
        console = Console(file=stream or sys.stderr)
        self._quiet = quiet
        self._console = console
        live = console.is_terminal and not quiet
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Bars(*columns, TextColumn("{task.fields[note]}"), console=console) if live else None
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._state: dict[str, Any] = {"run": run, "status": "running", "started": _now(), "phases": []}
        self._last_line = self._last_file = time.monotonic()
        self._log: Any = None
        self._words = ""
        self._over = threading.Event()
        self._clock = threading.Thread(target=self._tick_along, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._log = self._output.appending("log.jsonl")
        self.log("info", "run started")
        self._publish()
        if self._bars:
            self._bars.start()
        self._clock.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._clock.join()
        if self._bars:
            self._bars.stop()
        if self._log:
            with suppress(KxbatchError, OSError):
                self._log.close()

    def begin(self, stage: str, phase: str, units: Sequence[Unit], missing: Sequence[str]) -> None:
        """A phase starts."""
        done = len(units) - len(missing)
        entry = {"stage": stage, "phase": phase, "units": len(units), "done": done, "failed": 0, "rows": 0}
        self._state["phases"].append(entry)
        self.log("info", "phase started", stage=stage, phase=phase, units=len(units), missing=len(missing))
        if self._bars and missing:
            task = self._bars.add_task(f"{stage} ({phase})", total=len(units), completed=done, note="")
            self._tasks[stage, phase] = task

    def finished(self, stage: str, receipt: Receipt) -> None:
        """A unit is done."""
        entry = self._state["phases"][-1]
        entry["done"] += 1
        entry["rows"] += receipt.rows_out
        facts = {"shard": receipt.key, "rows": receipt.rows_out, "quarantined": receipt.quarantined}
        facts |= {"attempt": receipt.attempt, "worker": receipt.worker, "seconds": receipt.seconds}
        self.log("info", "unit done", stage=stage, phase=receipt.phase, **facts)
        task = self._tasks.get((stage, receipt.phase))
        if self._bars and task is not None:
            self._bars.update(task, advance=1, note=f"{entry['rows']} rows")

    def training(self, stage: str) -> None:
        """A training starts; how many steps it has is told with its first line."""
        entry = {"stage": stage, "phase": "train", "units": 0, "done": 0, "failed": 0, "rows": 0}
        self._state["phases"].append(entry)
        self._words = ""
        self.log("info", "training started", stage=stage)
        if self._bars:
            self._tasks[stage, "train"] = self._bars.add_task(f"{stage} (train)", total=None, note="")

    def trained(self, stage: str, facts: dict[str, Any]) -> None:
        """A training came on by some steps, or has something to say."""
        if "warning" in facts:
            self.say(f"stage {stage}: {facts['warning']}")
            return
        entry = self._state["phases"][-1]
        entry["done"], entry["units"] = facts["step"], facts["steps"]
        if "begins" in facts and facts["step"]:
            self.say(f"stage {stage}: going on from the state of step {facts['step']}", "info")
        if "diverged" in facts:
            self.say(f"stage {stage}: diverged at step {facts['step']}; the last good state is kept")
        if "loss" in facts:
            told = {name: facts[name] for name in ("loss", "tokens_per_second")}
            entry |= told | {"seconds_left": round(seconds_left(facts), 1)}
        self._words = training_words(facts) or self._words
        self.log("info", "trained", stage=stage, **facts)
        task = self._tasks.get((stage, "train"))
        if self._bars and task is not None:
            self._bars.update(task, completed=entry["done"], total=entry["units"], note=self._words)

    def failed(self, stage: str, failure: Failure) -> None:
        """A unit was given up: one readable message; the traceback goes to the log only."""
        self._state["phases"][-1]["failed"] += 1
        facts = {
            "shard": failure.key,
            "error": failure.error,
            "attempt": failure.attempt,
            "worker": failure.worker,
        }
        self.log("error", failure.message, stage=stage, phase=failure.phase, **facts, trace=failure.trace)
        if failure.policy == "stop":
            return  # the run ends with this message; it is not told twice
        tries = f" after {failure.attempt} attempts" if failure.attempt > 1 else ""
        self.say(f"stage {stage}, shard {failure.key}: {failure.error}{tries}: {failure.message}")

    def say(self, message: str, level: str = "warning") -> None:
        """Tell the person, and the log."""
        self.log(level, message)
        if not self._quiet:
            self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def log(self, level: str, message: str, **facts: Any) -> None:
        """A line in `log.jsonl`."""
        if self._log:
            entry = {"time": _now(), "level": level, "run": self._run, "message": message} | facts
            with suppress(
                KxbatchError, OSError
            ):  # what cannot be logged is no reason to end; what cannot be published is
                self._log.write(json.dumps({k: v for k, v in entry.items() if v not in ("", None)}))

    def end(self, status: str, exit_code: int) -> None:
        """The run is over."""
        self._over.set()
        self._clock.join()
        self._state |= {"status": status, "exit_code": exit_code}
        self.log("info", "run ended", status=status, exit_code=exit_code)
        self._publish()

    def _tick_along(self) -> None:
        """Tells that the run is alive, also while one shard takes long."""
        while not self._over.wait(0.5):
            if self._state["phases"]:
                self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        if now - self._last_file >= FILE_EVERY:
            self._last_file = now
            with suppress(KxbatchError):  # the run itself meets the same fault, and tells
                self._publish()
        if self._bars is None and not self._quiet and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            entry = self._state["phases"][-1]
            words = (
                f"{entry['done']}/{entry['units']} shards, {entry['rows']} rows in this run, {entry['failed']} failed"
            )
            if entry["phase"] == "train":
                words = f"step {entry['done']}/{entry['units'] or '?'}, {self._words or 'getting ready'}"
            self._console.print(f"{entry['stage']} ({entry['phase']}): {words}", highlight=False, soft_wrap=True)

    def _publish(self) -> None:
        self._output.publish_json("progress.json", self._state | {"updated": _now()})


def training_words(facts: dict[str, Any]) -> str:
    """Loss, rate, speed and the time that is left, for people; empty where a line has none of them."""
    if "loss" not in facts:
        return ""
    eta = timedelta(seconds=round(seconds_left(facts)))
    return f"loss {facts['loss']:.4f}, rate {facts['rate']:.2e}, {facts['tokens_per_second']:,.0f} tokens/s, {eta} left"


def seconds_left(facts: dict[str, Any]) -> float:
    """For the rest of the steps at the pace of the last ones; an early stop may come before that."""
    return float((facts["steps"] - facts["step"]) / max(facts["steps_per_second"], 1e-9))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
