"""What a store promises; everything about crash safety rests on these promises.

- `publish` makes a file visible under its name whole or not at all, and only after `fence` agreed. A crash leaves the old file or
  the new one, never a part of one.
- `replace` writes a file only if it still is what the caller saw (or if there is none): one atomic step among all writers.
- A file that was published is seen by every later `read` and `listing`.
- Nothing is half done for ever: what a writer that died left behind is found by `leftovers` and removed by `sweep`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, Protocol

Fence = Callable[[], None]


@dataclass(frozen=True)
class Published:
    """What was made visible: its size in bytes and the SHA-256 of its content."""

    bytes: int
    digest: str


@dataclass(frozen=True)
class Listing:
    """What lies directly in a folder: files with their sizes in bytes, and folders; temporary files left out."""

    files: dict[str, int]
    folders: list[str]


class Log(Protocol):
    """A file that only grows."""

    def write(self, line: str) -> None:
        """Add a line."""

    def close(self) -> None:
        """Nothing more comes."""


class Store(Protocol):
    """Files by absolute address. A missing file is a FileNotFoundError; every other fault is one of `kxbatch.errors`."""

    remote: bool

    def open(self, path: str, *, mapped: bool) -> Any:
        """A file for random access, as pyarrow's readers take it; `mapped` reads without a copy where the store can."""

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes of a file, and its version: what `replace` compares."""

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """The bytes of many files, in order, None for those that are not there."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def is_folder(self, path: str) -> bool:
        """Whether there is anything below this address."""

    def listing(self, path: str) -> Listing:
        """What lies directly in a folder; nothing where there is none."""

    def publish(self, path: str, write: Callable[[Any], Any], fence: Fence) -> Published:
        """Make a file visible in one step; `write` gets a binary sink, `fence` is called at the last moment before."""

    def replace(self, path: str, data: bytes, version: str | None) -> str | None:
        """Write a file if its version is the one given (None: if there is none); the new version, or None if it was not."""

    def remove(self, path: str) -> None:
        """Remove a file; none there is fine."""

    def remove_folder(self, path: str) -> None:
        """Remove a folder that has nothing in it any more; others stay, and a store without folders has none to remove."""

    def appending(self, path: str, fence: Fence) -> Log:
        """A log that goes on where it ended; `fence` is called before it replaces what others may have written."""

    def leftovers(self, path: str) -> list[str]:
        """Addresses, inside this folder and below, of what writers that died left behind."""

    def sweep(self, path: str) -> None:
        """Remove the leftovers; only the holder of the lease may."""


class Hashing:
    """A binary sink that counts and digests what passes through; file-like as far as pyarrow asks for it."""

    def __init__(self, sink: IO[bytes]) -> None:
        self._sink, self._sha, self.bytes = sink, hashlib.sha256(), 0
        self.closed = False

    def write(self, data: Any) -> int:
        """Pass bytes on."""
        view = memoryview(data)
        self._sha.update(view)
        self._sink.write(view)
        self.bytes += view.nbytes
        return view.nbytes

    def flush(self) -> None:
        """Pass on what is still held."""
        self._sink.flush()

    def tell(self) -> int:
        """Bytes so far."""
        return self.bytes

    def seekable(self) -> bool:
        """No."""
        return False

    def readable(self) -> bool:
        """No."""
        return False

    def writable(self) -> bool:
        """Yes."""
        return True

    def close(self) -> None:
        """The owner of the sink closes it."""

    def published(self) -> Published:
        """What passed through."""
        return Published(self.bytes, self._sha.hexdigest())
