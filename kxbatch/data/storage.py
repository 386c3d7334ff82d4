"""Folders and files of an output, on a disk or on an object store; what they promise is in `stores.base`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from kxbatch.data.filesystems import absolute, reading
from kxbatch.data.stores import Fence, Listing, Published, Store, store_of
from kxbatch.errors import ConfigError, FatalError

__all__ = ["Fence", "File", "Folder", "Published", "output_folder"]


def _open_fence() -> None:
    """Whoever holds no lease is not asked for one."""


@dataclass(frozen=True)
class File:
    """One file, by absolute local path or `s3://` address."""

    path: str

    def __str__(self) -> str:
        return self.path

    @property
    def name(self) -> str:
        """The last step of its address."""
        return self.path.rpartition("/")[2]

    @property
    def folder(self) -> Folder:
        """The folder it lies in."""
        return Folder(self.path.rpartition("/")[0] or "/")

    @property
    def remote(self) -> bool:
        """Whether reading it means asking another machine."""
        return store_of(self.path).remote

    def open(self, *, mapped: bool = False) -> Any:
        """For random access, as pyarrow's readers take it.

        Args:
            mapped: without a copy where the store can; for files of this run, which are known to be whole.

        Raises:
            FileNotFoundError: there is none.
        """
        return store_of(self.path).open(self.path, mapped=mapped)

    def size(self) -> int | None:
        """Bytes of it, None where there is none."""
        return store_of(self.path).size(self.path)

    def digest(self) -> str | None:
        """SHA-256 of its content, None where there is none."""
        try:
            with reading(self.path), self.open() as opened:
                return hashlib.file_digest(opened, "sha256").hexdigest()
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class Folder:
    """A folder by absolute local path or `s3://` address; it need not exist.

    Attributes:
        path: the address.
        fence: asked before anything becomes visible here or below; raises where the writer has lost its right.
    """

    path: str
    fence: Fence = field(default=_open_fence, compare=False, repr=False)

    @property
    def _store(self) -> Store:
        return store_of(self.path)

    def fenced(self, fence: Fence) -> Folder:
        """The same folder for a writer whose right is checked."""
        return replace(self, fence=fence)

    def child(self, *parts: str) -> Folder:
        """A folder inside this one; it need not exist."""
        return replace(self, path="/".join([self.path.rstrip("/"), *parts]))

    def file(self, name: str) -> File:
        """A file inside this folder; `name` may hold slashes, but must not lead out of it.

        Raises:
            FatalError: it does.
        """
        if name.startswith("/") or ".." in name.split("/") or "\0" in name:
            raise FatalError(f"{name!r} leads out of {self.path}; a manifest or receipt was tampered with")
        return File(f"{self.path.rstrip('/')}/{name}")

    def exists(self, name: str = "") -> bool:
        """Whether the file (or, without a name, the folder) is there."""
        return self._store.is_folder(self.path) if not name else self.size(name) is not None

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        return self.file(name).size()

    def listing(self) -> Listing:
        """What lies directly here."""
        return self._store.listing(self.path)

    def names(self, suffix: str = "") -> Sequence[str]:
        """Names of the files here that end in `suffix`, sorted; temporary files left out."""
        return [name for name in self.listing().files if name.endswith(suffix)]

    def read(self, name: str) -> bytes:
        """All bytes of a file."""
        return self._store.read(self.file(name).path)[0]

    def read_version(self, name: str) -> tuple[bytes, str]:
        """All bytes of a file, and its version."""
        return self._store.read(self.file(name).path)

    def read_all(self, names: Sequence[str]) -> Iterator[bytes | None]:
        """The bytes of many files, in order, None for those that are not there."""
        return self._store.read_all([self.file(name).path for name in names])

    def read_json(self, name: str) -> Any:
        """A JSON file, or None where there is none.

        Raises:
            FatalError: the file is there but no JSON; says which file.
        """
        try:
            return orjson.loads(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise FatalError(f"{self.file(name)}: damaged, no valid JSON ({error}); restore it or remove it") from None

    def publish(self, name: str, write: Callable[[Any], Any]) -> Published:
        """Make a file visible in one step, if the fence allows it.

        Args:
            name: name inside this folder; what was there is replaced.
            write: called with a binary sink; it writes the whole content.

        Returns:
            Size and digest of what was written.

        Raises:
            FatalError: the disk is full, read-only or out of quota; or the lease is lost.
        """
        return self._store.publish(self.file(name).path, write, self.fence)

    def publish_bytes(self, name: str, data: bytes) -> Published:
        """`publish` of bytes at hand."""
        return self.publish(name, lambda sink: sink.write(data))

    def publish_json(self, name: str, value: Any) -> Published:
        """`publish` of a JSON value: keys in the order given, two spaces of indent; what is no number becomes null."""
        text = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        return self.publish_bytes(name, text)

    def replace(self, name: str, data: bytes, version: str | None) -> str | None:
        """Write a file if it still has this version (None: if there is none), as one step among all writers.

        Returns:
            The new version, None where somebody else was quicker.
        """
        return self._store.replace(self.file(name).path, data, version)

    def remove(self, name: str) -> None:
        """Remove a file, if the fence allows it; none there is fine."""
        self.fence()
        self._store.remove(self.file(name).path)

    def clear(self, first: str) -> None:
        """Remove the files directly here, `first` before the others, and the folder if nothing is left in it."""
        for name in [first, *self.names()]:
            self.remove(name)
        self._store.remove_folder(self.path)

    def appending(self, name: str) -> Any:
        """A log here that goes on where it ended: `write` a line, `close`."""
        return self._store.appending(self.file(name).path, self.fence)

    def leftovers(self) -> Sequence[str]:
        """What writers that died left here and below, by name inside this folder."""
        return [path.removeprefix(f"{self.path}/") for path in self._store.leftovers(self.path)]

    def sweep(self) -> None:
        """Remove the leftovers; only the holder of the lease may."""
        self._store.sweep(self.path)


def output_folder(url: str, base: Path) -> Folder:
    """The folder an output is written to, or read from.

    Raises:
        ConfigError: a place that outputs cannot be in, or a file stands where a folder is needed.
    """
    address = absolute(url, base)
    if address.startswith("s3://"):
        return Folder(address)
    if "://" in address:
        scheme = address.partition("://")[0]
        raise ConfigError(
            f"output '{url}': outputs are written to local or mounted folders and to s3://; {scheme}:// works for "
            "[input] path. Google's storage speaks the protocol of s3:// too: set AWS_ENDPOINT_URL and HMAC keys"
        )
    path = Path(address)
    try:
        standing = next(p for p in (path, *path.parents) if p.exists())
    except OSError as error:
        raise ConfigError(
            f"output '{url}': no such place is possible here ({error}); choose another job.output"
        ) from None
    if not standing.is_dir():
        raise ConfigError(f"output '{url}': {standing} is a file; choose a folder as job.output")
    return Folder(address)
