"""The decompressed bytes of a line-format file, from any position, in blocks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from kxbatch.data.filesystems import modified_ns, resolve, storage_error
from kxbatch.data.sources.model import ReadOptions, SourceFile
from kxbatch.errors import DataError

CODECS = {"none": None, "gz": "gzip", "zst": "zstd"}
# Below this a file may be as compressible as it likes: it cannot hurt.
RATIO_FLOOR_BYTES = 64 * 2**20

# A packed file can only be read from its beginning. A worker reads cuts in ascending order, so the stream that ended a
# cut is kept open, one in a process, and a later cut goes on from there instead of unpacking everything again.
_parked: dict[SourceFile, tuple[Any, int]] = {}


def check_unchanged(source: SourceFile) -> None:
    """Makes sure that a file still is what was listed.

    Raises:
        DataError: it is gone, or its size or time differ.
        RetryableError: the storage does not answer.
    """
    fs, path = resolve(source.url, None)
    try:
        info = fs.get_file_info(path)
    except OSError as error:
        raise storage_error(error, source.url) from error
    if info.type != pafs.FileType.File:
        raise DataError(f"{source.url}: gone since it was listed; restore it or plan again")
    now = (int(info.size), modified_ns(fs, info))
    if now != (source.size, source.modified_ns):
        raise DataError(
            f"{source.url}: changed since it was listed (then {source.size} bytes, modified {source.modified_ns} ns; "
            f"now {now[0]} bytes, modified {now[1]} ns); run again to plan it anew"
        )


def byte_blocks(
    source: SourceFile, options: ReadOptions, start: int = 0, stop: int | None = None, *, resume: bool = False
) -> Iterator[bytes]:
    """Reads a range of the decompressed file.

    Args:
        source: the file.
        options: block size and decompression limit.
        start: first byte.
        stop: one past the last byte; None reads to the end.
        resume: of a packed file, go on from where the last resumable range of this process ended, if that is before
            `start`, and leave the stream open at `stop`.

    Yields:
        Blocks of at most `options.block_bytes` bytes, none empty.

    Raises:
        DataError: not what its name says, truncated, corrupt, or larger than the decompression limit.
        ConfigError: no permission.
        RetryableError: the storage does not answer.
    """
    position = 0
    try:
        stream, position = _open(source, start, resume)
        keep = False
        try:
            while stop is None or position < stop:
                border = start if position < start else stop
                block = stream.read(
                    options.block_bytes if border is None else min(options.block_bytes, border - position)
                )
                if not block:
                    break
                skipped = position < start
                position += len(block)
                _check_ratio(source, options, position)
                if not skipped:
                    yield block
            keep = resume and source.compression != "none" and position == stop
        finally:
            if keep:
                _park(source, position, stream)
            else:
                stream.close()
    except MemoryError:  # Arrow's own is one of its exceptions too; the file is not to blame
        raise
    except (OSError, pa.ArrowException) as error:
        raise _read_error(source, position, error) from error


def content_start(source: SourceFile, options: ReadOptions) -> int:
    """Where the text begins: after a UTF-8 byte order mark, if there is one.

    Raises:
        DataError: the file is UTF-16, or as in `byte_blocks`.
    """
    head = b"".join(byte_blocks(source, options, 0, 3))
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{source.url}: the text is UTF-16; convert it to UTF-8 (iconv -f UTF-16 -t UTF-8)")
    return 3 if head == b"\xef\xbb\xbf" else 0


def _open(source: SourceFile, start: int, resume: bool) -> tuple[Any, int]:
    """A stream and the position it stands at, which is `start` or before it."""
    stream, position = _parked.pop(source, (None, 0)) if resume else (None, 0)
    if stream is not None:
        if position <= start:
            return stream, position
        stream.close()
    fs, path = resolve(source.url, None)
    if source.compression == "none":
        file = fs.open_input_file(path)
        file.seek(start)
        return file, start
    return fs.open_input_stream(path, compression=CODECS[source.compression]), 0


def _park(source: SourceFile, position: int, stream: Any) -> None:
    for other in list(_parked):
        _parked.pop(other)[0].close()
    _parked[source] = (stream, position)


def _check_ratio(source: SourceFile, options: ReadOptions, position: int) -> None:
    if source.compression == "none" or position <= RATIO_FLOOR_BYTES:
        return
    if position > options.max_ratio * source.size:
        raise DataError(
            f"{source.url}: decompresses to more than {position / source.size:.0f} times its {source.size} bytes "
            f"(limit {options.max_ratio:g}): a decompression bomb, or very repetitive data; "
            "if it can be trusted, raise input.max_ratio"
        )


def _read_error(source: SourceFile, position: int, error: Exception) -> Exception:
    found = storage_error(error, source.url)
    if source.compression == "none" or not isinstance(found, DataError) or isinstance(error, FileNotFoundError):
        return found
    return DataError(
        f"{source.url}: cannot be decompressed as .{source.compression} after {position} bytes ({error}); "
        "it is truncated, corrupt, or not what its name says: write it again or leave it out"
    )
