"""One run per output.

A lease is a small JSON file with a heartbeat. It is held while its heartbeat is fresh and, on the same host, its process is
alive. Every acquisition raises the *token*; a worker looks at it before it publishes, so a run that lost its lease
(paused, swapped out) writes nothing more.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psutil

from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import Folder, disk_errors
from kxbatch.errors import FatalError, LeaseHeld

NAME = f"{BOOKKEEPING}/lease.json"
HEARTBEAT = 5.0
LAPSE = 60.0


class Lease:
    """Held from `acquire` to `release`; renews itself from a thread of its own."""

    def __init__(self, output: Folder, run: str) -> None:
        self._output, self._run = output, run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._since = _now()
        self.token = 0

    def __enter__(self) -> Lease:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            LeaseHeld: another run has it; says who and since when.
        """
        with _exclusive(self._output):
            current = read_lease(self._output)
            if current is not None and is_held(current):
                raise LeaseHeld(
                    f"{self._output.path}: run {current['run']} on {current['host']} (process {current['pid']}) "
                    f"holds the lease since {current['since']}, last heartbeat {current['heartbeat']}; "
                    f"wait for it or stop it; a dead holder's lease lapses after {LAPSE:.0f} s"
                )
            self.token = (current["token"] if current else 0) + 1
            self._write(held=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; the token stays on record."""
        self._stop.set()
        self._thread.join()
        with _exclusive(self._output):
            if holds(self._output, self.token):
                self._write(held=False)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with _exclusive(self._output):
                if not holds(self._output, self.token):
                    return
                self._write(held=True)

    def _write(self, *, held: bool) -> None:
        mine = {
            "run": self._run,
            "token": self.token,
            "held": held,
            "host": socket.gethostname(),
            "pid": os.getpid(),
        }
        mine |= {"process_started": _process_started(os.getpid()), "since": self._since, "heartbeat": _now()}
        self._output.publish_json(NAME, mine)


def read_lease(output: Folder) -> dict[str, Any] | None:
    """The lease file, None where no run ever took it."""
    lease: dict[str, Any] | None = output.read_json(NAME)
    return lease


def is_held(lease: dict[str, Any]) -> bool:
    """Whether the holder is still there."""
    if not lease["held"]:
        return False
    if lease["host"] == socket.gethostname() and _process_started(lease["pid"]) != lease["process_started"]:
        return False  # the process died, or another one has its number now
    age = time.time() - datetime.fromisoformat(lease["heartbeat"]).timestamp()
    return abs(age) < LAPSE  # a heartbeat from the future is a clock that jumped, not life


def holds(output: Folder, token: int) -> bool:
    """Whether the run with this token is still the one allowed to publish."""
    lease = read_lease(output)
    return lease is not None and lease["token"] == token and lease["held"]


def check_token(output: Folder, token: int) -> None:
    """Stop a run that lost its lease before it publishes.

    Raises:
        FatalError: another run took the lease.
    """
    if not holds(output, token):
        raise FatalError(
            f"{output.path}: this run lost its lease (it stood still too long); another run goes on with it"
        )


@contextlib.contextmanager
def _exclusive(output: Folder) -> Iterator[None]:
    """Read-decide-write on the lease as one step among the processes of this host and of shared POSIX file systems."""
    path = output.file(f"{BOOKKEEPING}/lease.lock")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _process_started(pid: int) -> float | None:
    try:
        return round(float(psutil.Process(pid).create_time()), 2)
    except psutil.Error:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
