"""What every fuzz target promises: only declared errors, with words; no hang; no unbounded memory."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from kxbatch.cli import main
from kxbatch.errors import KxbatchError

SECONDS = 30
MEMORY = 3 * 2**30  # beyond what the process has when a case begins
STATUSES = {0, 1, 2, 3, 4, 75}


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """A case that takes 30 s or 3 GiB fails; both limits end with the case."""

    def hang(*_: object) -> None:
        raise AssertionError(f"no end after {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (psutil.Process().memory_info().vms + MEMORY, hard))
    before = signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def declared(work: Callable[[], Any]) -> Any:
    """What `work` gives, or the error of kxbatch that it raised; anything else goes through and fails the test."""
    with bounded():
        try:
            return work()
        except KxbatchError as error:
            found = error
    assert str(found).strip(), f"{type(found).__name__} without words"
    return found


def verb(*arguments: str) -> tuple[int, str, str]:
    """A verb in this process: exit status, standard output and standard error.

    An exception that the command line would call unexpected goes through with its traceback.
    """
    out, err, argv, switch = io.StringIO(), io.StringIO(), sys.argv, os.environ.get("KXBATCH_TRACEBACK")
    sys.argv = ["kxbatch", *arguments]
    os.environ["KXBATCH_TRACEBACK"] = "1"
    status = 0
    try:
        with bounded(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = int(end.code or 0)
    finally:
        sys.argv = argv
        os.environ.pop("KXBATCH_TRACEBACK")
        if switch is not None:
            os.environ["KXBATCH_TRACEBACK"] = switch
    assert "Traceback" not in err.getvalue(), err.getvalue()
    assert "Traceback" not in out.getvalue(), out.getvalue()
    return status, out.getvalue(), err.getvalue()


def put(path: Path, data: bytes) -> None:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
