"""One run per output.

A lease is a small JSON file with a heartbeat, written only on the condition that nobody else wrote it in between (on a disk by a
lock, on an object store by a conditional request). Every acquisition raises the *token*; whatever a run publishes is fenced: the
token is looked at just before a file becomes visible, so a run that lost its lease (paused, swapped out, cut off) writes nothing
more.

Clocks of two hosts need not agree. A lease whose heartbeat looks old is watched before it is taken: a holder that lives writes the
next one within `HEARTBEAT` seconds, whatever its clock says.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import orjson
import psutil
from pydantic import AfterValidator, Field, TypeAdapter

from kxbatch.data.documents import Document, check_document
from kxbatch.data.receipts import BOOKKEEPING, Count
from kxbatch.data.storage import Folder
from kxbatch.errors import FatalError, KxbatchError, LeaseHeld

NAME = f"{BOOKKEEPING}/lease.json"
HEARTBEAT = 5.0
LAPSE = 60.0
WATCH = 3 * HEARTBEAT


def _is_time(text: str) -> str:
    try:
        datetime.fromisoformat(text).timestamp()
    except OverflowError as error:
        raise ValueError(str(error)) from None
    return text


class _Held(Document):
    """What a lease says."""

    run: str
    token: Count
    held: bool
    host: str
    pid: Annotated[Count, Field(lt=2**31)]
    system: str
    process_started: float | None
    since: str
    heartbeat: Annotated[str, AfterValidator(_is_time)]


_SHAPE = TypeAdapter(_Held)


class LeaseLost(FatalError):
    """Another run took the lease; this one must not publish."""


class Lease:
    """Held from `acquire` to `release`; renews itself from a thread of its own."""

    def __init__(self, output: Folder, run: str) -> None:
        self._output, self._run = output, run
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._since = _now()
        self._version: str | None = None
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
        version = None
        with contextlib.suppress(FileNotFoundError):
            data, version = self._output.read_version(NAME)
            current = parse_lease(self._output, data)
            if is_held(current) or (may_live(current) and _beats(self._output, version)):
                raise held_error(self._output, current)
            self.token = current["token"]
        self.token += 1
        self._version = self._write(version, held=True)
        if self._version is None:  # somebody was quicker
            raise held_error(self._output, read_lease(self._output) or {})
        self._thread.start()

    def release(self) -> None:
        """Give the lease back; the token stays on record. One that cannot be given back lapses."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(KxbatchError):
            self._renew(held=False)

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            with contextlib.suppress(KxbatchError):  # the next beat tries again; a lapsed lease is fenced off
                if not self._renew(held=True):
                    return

    def _renew(self, *, held: bool) -> bool:
        """Write the lease again; False: it is another's. A write of ours whose answer got lost has changed its version."""
        version = self._write(self._version, held=held)
        if version is None:
            try:
                data, seen = self._output.read_version(NAME)
            except FileNotFoundError:
                return False
            current = parse_lease(self._output, data)
            if (current["run"], current["token"]) != (self._run, self.token):
                return False
            version = self._write(seen, held=held)
        self._version = version
        return version is not None

    def _write(self, version: str | None, *, held: bool) -> str | None:
        mine = {"run": self._run, "token": self.token, "held": held}
        mine |= {"host": socket.gethostname(), "pid": os.getpid(), "system": _system()}
        mine |= {"process_started": _process_started(os.getpid()), "since": self._since, "heartbeat": _now()}
        return self._output.replace(NAME, json.dumps(mine, indent=2).encode() + b"\n", version)


def read_lease(output: Folder) -> dict[str, Any] | None:
    """The lease file, None where no run ever took it.

    Raises:
        FatalError: it is damaged.
    """
    try:
        return parse_lease(output, output.read(NAME))
    except FileNotFoundError:
        return None


def parse_lease(output: Folder, data: bytes) -> dict[str, Any]:
    """A lease from its bytes.

    Raises:
        FatalError: it is damaged.
    """
    where, mend = str(output.file(NAME)), "make sure that no run is at work on this output, then remove this file"
    try:
        lease: dict[str, Any] = orjson.loads(data)
    except ValueError as error:
        raise FatalError(f"{where}: damaged, no valid JSON ({error}); {mend}") from None
    check_document(lease, _SHAPE, where, mend)
    return lease


def held_error(output: Folder, lease: dict[str, Any]) -> LeaseHeld:
    """Who holds it, and since when."""
    if not lease:
        return LeaseHeld(f"{output.path}: another run took the lease at this moment; wait for it")
    return LeaseHeld(
        f"{output.path}: run {lease['run']} on {lease['host']} (process {lease['pid']}) "
        f"holds the lease since {lease['since']}, last heartbeat {lease['heartbeat']}; "
        f"wait for it or stop it; a dead holder's lease lapses after {LAPSE:.0f} s"
    )


def is_held(lease: dict[str, Any]) -> bool:
    """Whether the holder is still there, as far as the file and the clock of this host tell."""
    age = time.time() - datetime.fromisoformat(lease["heartbeat"]).timestamp()
    return may_live(lease) and abs(age) < LAPSE  # a heartbeat from the future is a clock that jumped, not life


def may_live(lease: dict[str, Any]) -> bool:
    """Whether the holder can be alive at all: it did not give the lease back, and its process did not die on this host."""
    if not lease["held"]:
        return False
    here = lease["system"] == _system()
    return not here or _process_started(lease["pid"]) == lease["process_started"]


def _beats(output: Folder, version: str) -> bool:
    """Whether the lease is renewed while we look."""
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCH / 4))
        with contextlib.suppress(FileNotFoundError):
            if output.read_version(NAME)[1] != version:
                return True
    return False


def holds(output: Folder, token: int) -> bool:
    """Whether the run with this token is still the one allowed to publish."""
    lease = read_lease(output)
    return lease is not None and lease["token"] == token and lease["held"]


def check_token(output: Folder, token: int) -> None:
    """The fence of a run: stops it before it publishes without a lease.

    Raises:
        LeaseLost: another run took the lease.
    """
    if not holds(output, token):
        raise LeaseLost(
            f"{output.path}: this run lost its lease (it stood still too long); another run goes on with it"
        )


@cache
def _system() -> str:
    """Where a process number means something: this boot of this machine, and this namespace of processes.

    Containers may share a host name, and see only their own processes.
    """
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    return socket.gethostname()


def _process_started(pid: int) -> float | None:
    """Seconds from boot to the start of a process: by the wall clock it would seem another process once that is set."""
    try:
        return round(float(psutil.Process(pid).create_time() - psutil.boot_time()), 2)
    except psutil.Error:
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
