"""The changes made to a graph, in a file beside it: one line each, in their order, never rewritten.

A line is there when it is on the disk, its end included: what a writer that died left unfinished is no change, and the next writer
takes it away. Each line has a checksum of itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kxbatch.errors import DataError, LeaseHeld
from kxbatch.models.graph.changes import Change, read_change

JOURNAL = "changes.jsonl"
_LOCK = "changes.lock"


def read_journal(file: Path) -> list[Change]:
    """The changes in a file; none where there is no file.

    Raises:
        DataError: a line is damaged; names it and says what to do.
    """
    lines = _whole_lines(file).split(b"\n")[:-1] if file.exists() else []
    return [_parsed(line, f"{file}, line {number}") for number, line in enumerate(lines, 1)]


def append_changes(file: Path, made: Sequence[Change]) -> None:
    """Adds changes to a file; they are on the disk when this returns. For whoever holds `locked`."""
    whole = len(_whole_lines(file)) if file.exists() else 0
    new = not file.exists()
    with file.open("r+b" if not new else "wb") as opened:
        opened.truncate(whole)
        opened.seek(whole)
        opened.write(b"".join(_sealed(change).encode() + b"\n" for change in made))
        opened.flush()
        os.fsync(opened.fileno())
    if new:
        _sync_folder(file.parent)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the right to change a graph, alone among all processes; the system takes it back from one that dies.

    Raises:
        LeaseHeld: another process has it.
    """
    with (folder / _LOCK).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseHeld(f"{folder}: another process is changing this graph; try again when it is done") from None
        yield


def _whole_lines(file: Path) -> bytes:
    content = file.read_bytes()
    return content[: content.rfind(b"\n") + 1]


def _sealed(change: Change) -> str:
    line = change.to_json()
    return f'{line[:-1]}, "checksum": "{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'


def _parsed(line: bytes, where: str) -> Change:
    try:
        text = line.decode()
        change = read_change(json.loads(text))
        if _sealed(change) != text:
            raise ValueError("it is not what its checksum says")
        return change
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{where}: damaged ({error}); restore the file, or take the line out and make the change again"
        ) from None


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
