"""Replaces the content of a whole folder in one step: readers see all of the old files or all of the new ones.

What is on the disk between the steps of a `Swap`, and what the next one makes of it after a kill:

1. The new content grows in a sibling, `.tmp-<name>.new`; the folder is untouched. Next: the sibling is removed.
2. `commit` exchanges the two names, which is one atomic step of the kernel (`renameat2`, Linux 3.15). The folder is
   never absent and never mixed. Next: the sibling, which holds the old content now, is removed.
3. Where the file system cannot exchange names, the folder is renamed to `.tmp-<name>.old` first, then the sibling
   takes its name. Between these two renames the folder is absent, which readers notice. Next: the old content goes back.
4. The old content is removed.

A lock on the parent folder keeps replacements from meeting; the kernel frees it when the process ends.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from contextlib import ExitStack
from pathlib import Path

from kxbatch.data.storage import Folder
from kxbatch.data.stores.disk import TEMPORARY
from kxbatch.errors import DataError, FatalError, LeaseHeld

_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_CANNOT = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)

Listing = dict[str, tuple[int, int]]


class Swap:
    """A folder about to be replaced; use it as a context. Without `commit` nothing changes.

    Attributes:
        target: the folder, symbolic links followed; it may be absent.
        new: where the new content goes.
    """

    def __init__(self, target: Path) -> None:
        self.target = target.resolve()
        self.new = Folder(str(self._sibling("new")))
        self._stack = ExitStack()
        self._before: Listing = {}

    def __enter__(self) -> Swap:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock()
            self._recover()
            self._before = _listing(self.target)
            Path(self.new.path).mkdir()
        except BaseException:
            self._stack.close()
            raise
        if self.target.exists():
            shutil.copymode(self.target, self.new.path)
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            _remove(Path(self.new.path))

    def commit(self) -> None:
        """Put the new content in the folder's place.

        Raises:
            DataError: files came or went while the new content was made; the folder is as it was.
            FatalError: the folder cannot be renamed.
        """
        self._unchanged(self.target)
        new, old = Path(self.new.path), self._sibling("old")
        try:
            if not self.target.exists():
                new.rename(self.target)
            elif _exchange(new, self.target):
                self._settle(new)
            else:
                self.target.rename(old)
                new.rename(self.target)
                self._settle(old)
        except OSError as error:
            raise FatalError(
                f"{self.target}: cannot be replaced as a whole: {error.strerror}; "
                "it must be a plain folder (no mount point) in a folder that can be written"
            ) from error

    def _settle(self, old: Path) -> None:
        """Remove the old content, unless somebody wrote to it in the last moment: then it goes back."""
        os.fsync(self._parent)
        try:
            self._unchanged(old)
        except DataError:
            if not _exchange(old, self.target):
                self.target.rename(self.new.path)
                old.rename(self.target)
            raise
        _remove(old)

    def _lock(self) -> None:
        self._parent = os.open(self.target.parent, os.O_RDONLY)
        self._stack.callback(os.close, self._parent)
        try:
            fcntl.flock(self._parent, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LeaseHeld(
                f"{self.target.parent}: another export or compaction is at work in this folder; wait for it"
            ) from None

    def _recover(self) -> None:
        """Roll back or clean up after a replacement that was killed."""
        old = self._sibling("old")
        if old.exists() and not self.target.exists():
            old.rename(self.target)
        _remove(old)
        _remove(Path(self.new.path))

    def _unchanged(self, folder: Path) -> None:
        if _listing(folder) != self._before:
            raise DataError(f"{self.target}: somebody else changed it meanwhile; it was left as it is, try again")

    def _sibling(self, role: str) -> Path:
        return self.target.with_name(f"{TEMPORARY}{self.target.name}.{role}")


def _listing(folder: Path) -> Listing:
    """Every file below a folder, with size and time of change."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    return {str(path.relative_to(folder)): (stat.st_size, stat.st_mtime_ns) for path, stat in found}


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one atomic step; False where the system or the file system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(a))
