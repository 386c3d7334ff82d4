"""Faults of processes under Ray: a worker, the raylet, the control store or the driver dies; an encoder ends or holds its worker.

The driver is a process of its own with a cluster of its own. What it leaves running is ended by its number.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from faults.children import Ended
from faults.trials import RUN, Laboratory, Outcome, Trial, ended_as, true_status
from faults.workplaces import has_mood

PATIENCE = 240.0
IMPATIENT = {"RAY_gcs_rpc_server_reconnect_timeout_s": "5"}  # Ray itself waits a minute
DRIVER = [sys.executable, "-m", "kxbatch", *RUN, "--executor", "ray"]


@dataclass
class Driver:
    """A run on a local Ray, and all processes that it started."""

    process: subprocess.Popen[bytes]
    log: Path
    family: dict[int, psutil.Process]

    def look(self) -> list[psutil.Process]:
        """Its processes of now."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                self.family.setdefault(child.pid, child)
        return [process for process in self.family.values() if process.is_running()]

    def named(self, name: str) -> list[psutil.Process]:
        """Processes whose title begins so."""
        found = []
        for process in self.look():
            with contextlib.suppress(psutil.Error):
                if " ".join(process.cmdline()).startswith(name) or process.name() == name:
                    found.append(process)
        return found

    def wait(self) -> Ended:
        """Until it ended."""
        started = time.monotonic()
        said = ""
        while self.process.poll() is None:
            self.look()
            if time.monotonic() - started > PATIENCE:
                said = f"hung for {PATIENCE:g} s\n"
                self.process.kill()
                break
            time.sleep(0.2)
        status = self.process.wait()
        said += self.log.read_text(errors="replace")
        return Ended(128 - status if status < 0 else status, max(0, -status), said, True, time.monotonic() - started)


@contextlib.contextmanager
def driving(lab: Laboratory, *words: str) -> Iterator[Driver]:
    """A driver at work; nothing of it is left afterwards."""
    log = lab.home / "driver.txt"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*DRIVER, *words], cwd=lab.home, env=os.environ | IMPATIENT, stdout=sink, stderr=sink
        )
    driver = Driver(process, log, {})
    try:
        yield driver
    finally:
        for left in driver.look():
            with contextlib.suppress(psutil.Error):
                left.kill()
        process.kill()
        process.wait()


def _receipts(lab: Laboratory) -> int:
    return len(list(lab.output.glob("*/_kxbatch/receipts/*/*.json")))


def _after_receipts(lab: Laboratory, driver: Driver, count: int, moment: float) -> bool:
    """Wait until so many units are done, and a moment longer; whether the driver is still at work then."""
    deadline = time.monotonic() + PATIENCE
    while _receipts(lab) < count and driver.process.poll() is None and time.monotonic() < deadline:
        driver.look()
        time.sleep(0.01)
    time.sleep(moment)
    return driver.process.poll() is None


def kill(name: str, *allowed: int) -> Trial:
    """SIGKILL of one process at a random moment of a run.

    Args:
        name: how the process is called; empty for the driver itself.
        allowed: how the run may end.
    """

    def trial(lab: Laboratory, draw: random.Random, kind: str, label: str) -> Outcome | None:
        lab.clear(mood="slow 0.2")
        count, moment = draw.randint(0, 12) if name != "ray::_Actor" else draw.randint(1, 3), draw.uniform(0.0, 0.3)
        with driving(lab) as driver:
            if not _after_receipts(lab, driver, count, moment):
                return None
            victims = driver.named(name) if name else [psutil.Process(driver.process.pid)]
            if not victims:
                return None
            os.kill(draw.choice(sorted(victims, key=lambda p: p.pid)).pid, signal.SIGKILL)
            ended = driver.wait()
        problems = true_status(lab, ended, *allowed)
        return lab.resumed(kind, label, f"after {count} receipts and {moment:.3f} s", problems)

    return trial


def stillborn(lab: Laboratory, draw: random.Random, kind: str, label: str) -> Outcome | None:
    """The first worker dies while it loads its encoder: another one takes its place."""
    lab.clear(mood="stillborn")
    with driving(lab) as driver:
        ended = driver.wait()
    return lab.resumed(kind, label, "once", true_status(lab, ended)) if not has_mood(lab.home) else None


def poison(mood: str, error: str, words: str) -> Trial:
    """An encoder that does to its worker what workers die of, each time: its shard is parked, the rest is done."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, label: str) -> Outcome | None:
        lab.clear(mood=mood)
        with driving(lab, "--set", "embed.resources.attempts=2", "--set", "embed.resources.timeout=10") as driver:
            ended = driver.wait()
        problems = true_status(lab, ended, 3) + ended_as(ended, 3)
        record = json.loads((lab.output / "run.json").read_text())
        parked = [(f["error"], f["attempts"]) for f in record["failures"]]
        done = [stage["failed"] for stage in record["stages"]]
        if parked != [(error, 2)] or done != [1, 0, 0, 0]:
            problems.append(f"parked {parked}, failed {done}")
        if not all(said in ended.said for said in ("stage embed, shard part-", words)):
            problems.append(f"does not say {words!r}: {ended.said[-1500:]}")
        return lab.resumed(kind, label, mood, problems)

    return trial


RAY_KINDS: dict[str, Trial] = {
    "Ray: kill -9 of a worker": kill("ray::_Actor"),
    "Ray: worker dies while it starts": stillborn,
    "Ray: kill -9 of the raylet": kill("raylet", 1, 3),
    "Ray: kill -9 of the control store": kill("gcs_server", 1, 3),
    "Ray: kill -9 of the driver": kill("", 137),
    "Ray: encoder kills its worker": poison("dies", "WorkerDied", "died"),
    "Ray: worker out of memory": poison("grows", "MemoryError", "Unable to allocate"),
    "Ray: encoder hangs": poison("hangs", "Timeout", "no answer within 10 s (resources.timeout)"),
}
