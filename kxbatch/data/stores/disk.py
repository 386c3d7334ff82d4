"""Files on a local (or mounted) disk.

A file is written under a temporary name in its own folder, flushed, synced, renamed, and the folder is synced. Temporary files are
called `.tmp-*` and belong to their owner alone until they are published.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from kxbatch.data.filesystems import reading
from kxbatch.data.stores.base import Fence, Hashing, Listing, Published
from kxbatch.errors import FatalError, RetryableError

TEMPORARY = ".tmp-"
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


class Disk:
    """See `stores.base`."""

    remote = False

    def open(self, path: str, *, mapped: bool) -> Any:
        """Mapped into memory, columns that are stored plain need no copy; but a disk that fails then kills the process."""
        with reading(path):
            return pa.memory_map(path) if mapped and Path(path).stat().st_size else pa.OSFile(path)

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes; their digest is the version."""
        with reading(path):
            data = Path(path).read_bytes()
        return data, hashlib.sha256(data).hexdigest()

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """One after the other: a disk gains nothing from more."""
        for path in paths:
            try:
                yield self.read(path)[0]
            except FileNotFoundError:
                yield None

    def size(self, path: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            with reading(path):
                return Path(path).stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def is_folder(self, path: str) -> bool:
        """Whether the folder exists."""
        return Path(path).is_dir()

    def listing(self, path: str) -> Listing:
        """Files with sizes, and folders; temporary files left out."""
        files: dict[str, int] = {}
        folders: list[str] = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError), reading(path), os.scandir(path) as entries:
            for entry in entries:
                if entry.is_dir():
                    folders.append(entry.name)
                elif not entry.name.startswith(TEMPORARY):
                    with contextlib.suppress(FileNotFoundError):  # removed since, or a link to nowhere
                        files[entry.name] = entry.stat().st_size
        return Listing(dict(sorted(files.items())), sorted(folders))

    def publish(self, path: str, write: Callable[[Any], Any], fence: Fence) -> Published:
        """Temporary name, sync, fence, rename, sync of the folder.

        Raises:
            FatalError: the disk is full, read-only or out of quota.
        """
        with _temporary(path) as temporary:
            published = _write_synced(temporary, write)
            fence()
            temporary.replace(path)
            _sync_folder(temporary.parent)
        return published

    def replace(self, path: str, data: bytes, version: str | None) -> str | None:
        """One step among the processes of this host and of shared POSIX file systems, by a lock beside the file."""
        lock = Path(path).with_suffix(".lock")
        with disk_errors(path):
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a")
        with file:
            with disk_errors(path):
                fcntl.flock(file, fcntl.LOCK_EX)
            current: str | None = None
            with contextlib.suppress(FileNotFoundError):
                _, current = self.read(path)
            if current != version:
                return None
            return self.publish(path, lambda sink: sink.write(data), lambda: None).digest

    def remove(self, path: str) -> None:
        """Remove a file; none there is fine."""
        with disk_errors(path):
            Path(path).unlink(missing_ok=True)

    def remove_folder(self, path: str) -> None:
        """See `Store`."""
        with contextlib.suppress(OSError):
            Path(path).rmdir()

    def appending(self, path: str, fence: Fence) -> _File:
        """The file itself, opened at its end."""
        with disk_errors(path):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            return _File(path)

    def leftovers(self, path: str) -> list[str]:
        """Temporary files, here and below; a link is one, too, and is not followed."""
        found = (Path(folder, name) for folder, inner, names in os.walk(path) for name in (*inner, *names))
        return sorted(str(p) for p in found if p.name.startswith(TEMPORARY) and (p.is_symlink() or p.is_file()))

    def sweep(self, path: str) -> None:
        """Remove temporary files."""
        for leftover in self.leftovers(path):
            self.remove(leftover)


class _File:
    """A log on the disk; every line is there at once."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("a", encoding="utf-8")  # noqa: SIM115 (closed by close)

    def write(self, line: str) -> None:
        """Add a line."""
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


@contextlib.contextmanager
def _temporary(path: str) -> Iterator[Path]:
    """A temporary name beside a file; gone afterwards, whatever happens."""
    target = Path(path)
    with disk_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
        try:
            yield temporary
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise


def _write_synced(path: Path, write: Callable[[Any], Any]) -> Published:
    handle = os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
    )  # nobody else reads a file that is not whole yet
    with os.fdopen(handle, "wb") as sink:
        hashing = Hashing(sink)
        write(hashing)
        sink.flush()
        os.fchmod(sink.fileno(), 0o666 & ~_umask())
        os.fsync(sink.fileno())
    return hashing.published()


def _umask() -> int:
    """The mask for new files, from /proc: asking the system call would change it for other threads for a moment."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    return 0o022


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(target: str | Path) -> Iterator[None]:
    """A disk that takes no more is no shard's fault: stop the run and say so. Other faults of a disk may pass.

    Raises:
        FatalError: full, read-only, out of quota, over the file size limit, or not permitted.
        RetryableError: any other fault of writing.
    """
    try:
        yield
    except OSError as error:
        words = f"{target}: cannot be written: {os.strerror(error.errno or 0)}"
        if error.errno in _REFUSALS:
            raise FatalError(
                f"{words}; make room or mend the permissions, then run the same command again: finished shards are kept"
            ) from error
        raise RetryableError(words) from error
