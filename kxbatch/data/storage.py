"""A folder of an output: whole files appear at once or not at all.

The contract everything else rests on:

- `publish` makes a file visible under its name only when all of its bytes are on disk (temporary name in the same
  folder, flush, fsync, rename, fsync of the folder). A crash leaves the old file or the new one, never a part of one.
- `create` makes a file only if there is none (the lease needs that), as one atomic step.
- Temporary files are called `.tmp-*`; whoever holds the lease may sweep them.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from kxbatch.data.filesystems import absolute
from kxbatch.errors import ConfigError, FatalError

TEMPORARY = ".tmp-"
_REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG)


@dataclass(frozen=True)
class Published:
    """What was made visible: its size in bytes and the SHA-256 of its content."""

    bytes: int
    digest: str


class _Hashing:
    """A binary sink that counts and digests what passes through."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._sha, self.bytes = sink, hashlib.sha256(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        self._sha.update(view)
        self._sink.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        self._sink.flush()

    def tell(self) -> int:
        return self.bytes

    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        """The owner of the sink closes it."""

    def published(self) -> Published:
        return Published(self.bytes, self._sha.hexdigest())


@dataclass(frozen=True)
class Folder:
    """A folder on a local (or mounted) disk, by absolute path."""

    path: str

    def child(self, *parts: str) -> Folder:
        """A folder inside this one; it need not exist."""
        return Folder(str(PurePosixPath(self.path, *parts)))

    def file(self, name: str) -> Path:
        """Absolute path of a file inside this folder; `name` may hold slashes, but must not lead out of it."""
        relative = PurePosixPath(name)
        if relative.is_absolute() or ".." in relative.parts:
            raise FatalError(f"{name!r} leads out of {self.path}; a manifest or receipt was tampered with")
        return Path(self.path, relative)

    def exists(self, name: str = "") -> bool:
        """Whether the file (or, without a name, the folder) is there."""
        return self.file(name).exists()

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        try:
            return self.file(name).stat().st_size
        except FileNotFoundError:
            return None

    def names(self, suffix: str = "") -> list[str]:
        """Names of the files here that end in `suffix`, sorted; temporary files left out."""
        try:
            found = [p.name for p in Path(self.path).iterdir() if p.name.endswith(suffix) and p.is_file()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if not name.startswith(TEMPORARY))

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return self.file(name).read_bytes()

    def read_json(self, name: str) -> Any:
        """A JSON file, or None where there is none.

        Raises:
            FatalError: the file is there but no JSON; says which file.
        """
        try:
            return json.loads(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise FatalError(f"{self.file(name)}: damaged, no valid JSON ({error}); restore it or remove it") from None

    def publish(self, name: str, write: Callable[[Any], None]) -> Published:
        """Make a file visible in one step.

        Args:
            name: name inside this folder; what was there is replaced.
            write: called with a binary sink; it writes the whole content.

        Returns:
            Size and digest of what was written.

        Raises:
            FatalError: the disk is full, read-only or out of quota.
        """
        target = self.file(name)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
            try:
                published = _write_synced(temporary, write)
                temporary.replace(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    temporary.unlink()
                raise
            _sync_folder(target.parent)
        return published

    def publish_bytes(self, name: str, data: bytes) -> Published:
        """`publish` of bytes at hand."""
        return self.publish(name, lambda sink: sink.write(data))

    def publish_json(self, name: str, value: Any) -> Published:
        """`publish` of a JSON value: keys in the order given, two spaces of indent."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        return self.publish_bytes(name, text.encode() + b"\n")

    def create(self, name: str, data: bytes) -> bool:
        """Put a file if there is none: one atomic step, whole content or nothing.

        Returns:
            Whether this call made it.
        """
        target = self.file(name)
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
            try:
                _write_synced(temporary, lambda sink: sink.write(data))
                os.link(temporary, target)  # fails if the name is taken, unlike rename
            except FileExistsError:
                return False
            finally:
                with contextlib.suppress(OSError):
                    temporary.unlink()
            _sync_folder(target.parent)
        return True

    def remove(self, name: str) -> None:
        """Remove a file; none there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self.file(name).unlink()

    def temporaries(self) -> Iterator[Path]:
        """Leftovers of writers that died, here and below."""
        return Path(self.path).rglob(f"{TEMPORARY}*")


def output_folder(url: str, base: Path) -> Folder:
    """The folder an output is written to.

    Raises:
        ConfigError: the place is not a local path, or a file stands where a folder is needed.
    """
    scheme, separator, _ = url.partition("://")
    if separator and scheme != "file":
        raise ConfigError(
            f"output '{url}': outputs are written to local or mounted folders so far; "
            f"{scheme}:// works for [input] path. Write locally and copy the folder"
        )
    path = Path(absolute(url, base))
    standing = next(p for p in (path, *path.parents) if p.exists())
    if not standing.is_dir():
        raise ConfigError(f"output '{url}': {standing} is a file; choose a folder as job.output")
    return Folder(str(path))


def _write_synced(path: Path, write: Callable[[Any], None]) -> Published:
    with path.open("xb") as sink:
        hashing = _Hashing(sink)
        write(hashing)
        sink.flush()
        os.fsync(sink.fileno())
    return hashing.published()


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """A disk that takes no more is no shard's fault: stop the run and say so.

    Raises:
        FatalError: full, read-only, out of quota, over the file size limit, or not permitted.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _REFUSALS:
            raise FatalError(
                f"{target}: cannot be written: {os.strerror(error.errno)}; "
                "make room or mend the permissions, then run the same command again: finished shards are kept"
            ) from error
        raise
