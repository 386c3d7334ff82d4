"""Runs `kxbatch` commands in forked children of a process that has imported everything, with or without a fault."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.clocks import set_clock, shift_boot_time
from faults.injection import Fault, Injector

PATIENCE = 60.0
_sleep = time.sleep


@dataclass
class Ended:
    """How a command ended.

    Attributes:
        status: as a shell shows it; 128 + number for signals.
        signalled: the signal that the process died of, 0 for none.
        said: standard output and error.
        fired: whether the fault happened.
        calls: calls that changed the output, by kind.
        seconds: how long it took.
    """

    status: int
    signalled: int
    said: str
    fired: bool
    seconds: float
    calls: dict[str, int] = field(default_factory=dict)


def command(words: Sequence[str], root: Path, fault: Fault | None = None, *, clock: float = 0.0) -> Ended:
    """Run a command to its end."""
    return finish(start(words, root, fault, clock=clock))


@dataclass
class Child:
    """A command at work."""

    pid: int
    report: int
    log: Path
    started: float


def start(
    words: Sequence[str], root: Path, fault: Fault | None = None, *, clock: float = 0.0, reboot: bool = False
) -> Child:
    """Start a command in a fork.

    Args:
        words: what follows `kxbatch`.
        root: calls below this folder are counted.
        fault: what goes wrong.
        clock: how far the clock is off from the beginning.
        reboot: whether the time of boot is off with it, as it is where the clock was set since.
    """
    reader, writer = os.pipe()
    log = Path(f"said-{time.monotonic_ns()}.txt")
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            if reboot:
                shift_boot_time(clock, Path(f"proc-{time.monotonic_ns()}"))
            _be_command(words, Injector(root, fault, set_clock), clock, log, writer)
        finally:
            os._exit(70)
    os.close(writer)
    os.read(reader, 1)  # it is about to run the command: a moment is counted from here
    return Child(pid, reader, log, time.monotonic())


def _be_command(words: Sequence[str], injector: Injector, clock: float, log: Path, writer: int) -> None:
    """What the child does; never returns."""
    sink = os.open(log, os.O_WRONLY | os.O_CREAT, 0o600)
    for standard in (1, 2):
        os.dup2(sink, standard)
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    time.sleep = lambda seconds: _sleep(seconds / 50)  # pauses between attempts
    if clock:
        set_clock(clock)
    injector.install()
    os.write(writer, b" ")
    status = _main(words)
    sys.stdout.flush()
    sys.stderr.flush()
    facts = {"calls": dict(injector.calls), "fired": injector.fired}
    os.write(writer, json.dumps(facts).encode())
    os._exit(status)


def _main(words: Sequence[str]) -> int:
    """`python -m kxbatch`, with what the interpreter makes of what leaves it."""
    from kxbatch.cli import main

    sys.argv = ["kxbatch", *words]
    try:
        main()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def finish(child: Child, *, kill_after: float | None = None, numbers: Sequence[int] = ()) -> Ended:
    """Wait for a command.

    Args:
        child: the command.
        kill_after: seconds after which the signals are sent, if it still runs.
        numbers: the signals.
    """
    waited = _wait(child.pid, child.started + kill_after if kill_after is not None else time.monotonic())
    sent = waited is None and kill_after is not None
    for number in numbers if sent else ():
        os.kill(child.pid, number)
        _sleep(0.005)
    if waited is None:
        waited = _wait(child.pid, time.monotonic() + PATIENCE)
    said = ""
    if waited is None:
        said = f"hung for {PATIENCE:g} s\n"
        os.kill(child.pid, signal.SIGKILL)
        waited = os.waitpid(child.pid, 0)[1]
    facts = _facts(child.report)
    died = os.WTERMSIG(waited) if os.WIFSIGNALED(waited) else 0
    said += child.log.read_text()
    child.log.unlink()
    seconds = time.monotonic() - child.started
    status = 128 + died if died else os.WEXITSTATUS(waited)
    return Ended(status, died, said, facts["fired"] or sent or bool(died), seconds, facts["calls"])


def _wait(pid: int, deadline: float) -> int | None:
    """The wait status of a process, None where it still runs at the deadline."""
    pause = 0.001
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() >= deadline:
            return None
        _sleep(min(pause, max(0.0, deadline - time.monotonic()) + 0.001))
        pause = min(pause * 1.5, 0.02)


def _facts(report: int) -> dict[str, Any]:
    with os.fdopen(report, "rb") as pipe:
        raw = pipe.read()
    return json.loads(raw) if raw else {"calls": {}, "fired": False}
