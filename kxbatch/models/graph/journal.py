"""The changes made to a graph, in a file beside it: one line each, in their order, never rewritten.

Changes are made in calls, and a line says how many more of its call are left to come. A call is there when its last line is on
the disk, its end included: what a writer that died left unfinished is no change, and the next writer takes it away. Each line
has a checksum of itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kxbatch.errors import DataError, LeaseHeld
from kxbatch.models.graph.changes import Change, read_change

JOURNAL = "changes.jsonl"
_LOCK = "changes.lock"
_MORE = re.compile(rb', "left": [1-9]\d*, "checksum": "[0-9a-f]{16}"}$')


def read_journal(file: Path) -> list[Change]:
    """The changes in a file; none where there is no file.

    Raises:
        DataError: a line is damaged; names it and says what to do.
    """
    return [_parsed(line, f"{file}, line {number}") for number, line in enumerate(finished_lines(file), 1)]


def finished_lines(file: Path) -> list[bytes]:
    """The lines of all calls that were written to their end; none where there is no file."""
    lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
    while lines and _MORE.search(lines[-1]):
        lines.pop()
    return lines


def append_changes(file: Path, made: Sequence[Change]) -> None:
    """Adds the changes of a call to a file; they are on the disk when this returns. For whoever holds `locked`."""
    whole = sum(len(line) + 1 for line in finished_lines(file))
    new = not file.exists()
    with file.open("r+b" if not new else "wb") as opened:
        opened.truncate(whole)
        opened.seek(whole)
        opened.write(b"".join(_sealed(change, len(made) - i).encode() + b"\n" for i, change in enumerate(made, 1)))
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


def _sealed(change: Change, left: int) -> str:
    line = change.to_json()
    line = f'{line[:-1]}, "left": {left}}}' if left else line
    return f'{line[:-1]}, "checksum": "{hashlib.sha256(line.encode()).hexdigest()[:16]}"}}'


def _parsed(line: bytes, where: str) -> Change:
    try:
        text = line.decode()
        values = json.loads(text)
        change = read_change(values)
        if _sealed(change, values.get("left", 0)) != text:
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
