"""Which files the user's patterns mean.

A pattern is a file, a folder (read recursively), or a glob (`*`, `?`, `[ab]` inside a name, `**` for any folders), on
local disks and object stores alike. Entries whose names begin with `.` or `_` are bookkeeping of some program: a folder
or a wildcard never gives them, a name that is spelled out does.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import get_args

import pyarrow as pa
import pyarrow.fs as pafs

from kxbatch.data.filesystems import absolute, is_local, modified_ns, resolve, storage_error
from kxbatch.data.sources.globbing import is_pattern, matches, may_contain
from kxbatch.data.sources.model import Compression, Format, SourceFile
from kxbatch.errors import ConfigError, nearest

logger = logging.getLogger(__name__)

EXTENSIONS: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv",
    ".tab": "tsv", ".txt": "text", ".text": "text", ".nt": "nt", ".conll": "conll",
}  # fmt: skip
COMPRESSIONS: dict[str, Compression] = {".gz": "gz", ".zst": "zst"}
KNOWN = f"{', '.join(EXTENSIONS)}, the text formats also with {' or '.join(COMPRESSIONS)}"


@dataclass(frozen=True)
class _Place:
    """A pattern, and the file system and path it leads to."""

    pattern: str
    fs: pafs.FileSystem
    path: str
    scheme: str

    def url(self, path: str) -> str:
        return self.scheme + path


@dataclass(frozen=True)
class _Found:
    """A file below a wildcard-free folder."""

    place: _Place
    info: pafs.FileInfo
    name: str


def discover(
    patterns: Sequence[str], *, base: Path, format: str | None = None, id_column: str | None = None
) -> list[SourceFile]:
    """Lists the files that patterns mean.

    A folder that is a kxbatch dataset (`part-*.parquet` beside `_kxbatch/`) gives its parts alone. A file that several
    patterns give counts once, under the name the first of them gives it.

    Args:
        patterns: files, folders, globs, URLs; relative ones start from `base`.
        base: folder of the job file.
        format: what every file is, whatever it is called; None goes by the names.
        id_column: where ids come from; without one they begin with the file's name, so names must differ.

    Returns:
        The files, sorted by URL.

    Raises:
        ConfigError: nothing matches, a file or its format is unknown, a folder has nothing to read, a file or folder
            must not be read, two files have the same name.
        RetryableError: the storage does not answer.
    """
    if format is not None and format not in get_args(Format):
        allowed = ", ".join(get_args(Format))
        raise ConfigError(f"input format {format!r} is unknown; allowed: {allowed}{nearest(format, get_args(Format))}")
    if not patterns:
        raise ConfigError("no input: give at least one file, folder, glob or URL")
    sources: dict[str, SourceFile] = {}
    for pattern in patterns:
        for source in _expand(pattern, base, format):
            sources.setdefault(source.url, source)
    found = [sources[url] for url in sorted(sources)]
    if id_column is None:
        _check_names(found)
    return found


def _expand(pattern: str, base: Path, format: str | None) -> list[SourceFile]:
    address = absolute(pattern, base)
    fs, path = resolve(address, base)
    place = _Place(pattern, fs, path, address[: len(address) - len(path)])
    try:
        info = fs.get_file_info(path)
        if info.type == pafs.FileType.File:
            return [_named_file(_Found(place, info, PurePosixPath(path).name), format)]
        if info.type == pafs.FileType.Directory:
            return _folder(place, format)
        if is_pattern(path):
            return _glob(place, format)
    except (OSError, pa.ArrowException, UnicodeError) as error:
        raise storage_error(error, place.url(path)) from error
    raise ConfigError(f"input {pattern!r}: no such file or folder ({place.url(path)}){_sibling(place)}")


def _named_file(found: _Found, format: str | None) -> SourceFile:
    source = _source(found, format)
    if source is None:
        json = found.name.lower().endswith(".json")
        hint = "; JSON is format = 'jsonl' (an object a line) or format = 'cmeee' (an array)" if json else ""
        raise ConfigError(
            f"input {found.place.pattern!r}: unknown file type {_extension(found.name)!r}; known: {KNOWN}; "
            f"rename the file or set the format{hint}"
        )
    return source


def _folder(place: _Place, format: str | None) -> list[SourceFile]:
    if _is_dataset(place):
        return _readable(place, _walk(place, place.path, ("part-*.parquet",), []), "parquet", [])
    skipped: list[str] = []
    return _readable(place, _walk(place, place.path, ("**", "*"), skipped), format, skipped)


def _glob(place: _Place, format: str | None) -> list[SourceFile]:
    segments = place.path.split("/")
    first = next(i for i, segment in enumerate(segments) if is_pattern(segment))
    if place.scheme and first == 0:
        raise ConfigError(f"input {place.pattern!r}: a bucket cannot be a wildcard; name it")
    prefix = "/".join(segments[:first]) or "/"
    if place.fs.get_file_info(prefix).type != pafs.FileType.Directory:
        raise ConfigError(f"input {place.pattern!r}: no folder {place.url(prefix)}{_sibling(place, prefix)}")
    return _readable(place, _walk(place, prefix, tuple(segments[first:]), []), format, [])


def _is_dataset(place: _Place) -> bool:
    entries = place.fs.get_file_info(pafs.FileSelector(place.path))
    has_book = any(e.base_name == "_kxbatch" and e.type == pafs.FileType.Directory for e in entries)
    return has_book and any(matches((e.base_name,), ("part-*.parquet",)) for e in entries)


def _walk(place: _Place, prefix: str, segments: tuple[str, ...], skipped: list[str]) -> list[_Found]:
    """Files below `prefix` whose relative paths match; `skipped` collects hidden entries that were passed over."""
    # One flat listing is cheaper on an object store; a local walk must see links to stop at loops.
    flat = not is_local(place.fs) and "**" in segments
    found: list[_Found] = []
    pending: list[tuple[str, tuple[str, ...], frozenset[str]]] = [(prefix, (), frozenset())]
    while pending:
        folder, parts, above = pending.pop()
        real = os.path.realpath(folder) if is_local(place.fs) else folder
        if real in above:
            continue
        for info in _list(place.fs, folder, flat):
            inner = parts + PurePosixPath(info.path).relative_to(folder).parts
            if info.type == pafs.FileType.File and matches(inner, segments):
                found.append(_Found(place, info, "/".join(inner)))
            elif info.type == pafs.FileType.Directory and not flat and may_contain(inner, segments):
                pending.append((info.path, inner, above | {real}))
            elif inner[-1][0] in "._":
                skipped.append(f"{'/'.join(inner)} (hidden)")
            elif info.type == pafs.FileType.NotFound:
                skipped.append(f"{'/'.join(inner)} (broken link)")
    return found


def _list(fs: pafs.FileSystem, folder: str, flat: bool) -> list[pafs.FileInfo]:
    if not is_local(fs):
        return list(fs.get_file_info(pafs.FileSelector(folder, recursive=flat)))
    # By name, because a selector leaves broken links out without a word.
    return list(fs.get_file_info([str(path) for path in Path(folder).iterdir()]))


def _readable(place: _Place, found: list[_Found], format: str | None, skipped: list[str]) -> list[SourceFile]:
    """The sources among files that a folder or a wildcard gave; at least one."""
    sources = []
    for item in found:
        source = _source(item, format)
        if source is None:
            skipped.append(f"{item.name} (unknown type)")
        else:
            sources.append(source)
    if skipped:
        logger.info("input %r: skipped %d entries: %s", place.pattern, len(skipped), _few(skipped))
    if sources:
        return sources
    if found or skipped:
        raise ConfigError(f"input {place.pattern!r}: nothing to read; skipped: {_few(skipped)}; known types: {KNOWN}")
    if is_pattern(place.path):
        raise ConfigError(f"input {place.pattern!r} matches no file{_sibling(place)}")
    raise ConfigError(f"input {place.pattern!r}: the folder is empty ({place.url(place.path)})")


def _source(found: _Found, format: str | None) -> SourceFile | None:
    """A source file, or None when its name does not say what it is."""
    stem = PurePosixPath(found.name.lower())
    compression = COMPRESSIONS.get(stem.suffix, "none")
    if compression != "none":
        stem = stem.with_suffix("")
    kind = format or EXTENSIONS.get(stem.suffix)
    if kind is None:
        return None
    url = found.place.url(found.info.path)
    if kind == "parquet" and compression != "none":
        raise ConfigError(
            f"{url}: Parquet inside .{compression} cannot be read in parts; unpack it (Parquet compresses its pages itself)"
        )
    if is_local(found.place.fs) and not os.access(found.info.path, os.R_OK):
        raise ConfigError(f"{url}: no permission to read it (user id {os.geteuid()}); chmod or chown it")
    known: Format = next(name for name in get_args(Format) if name == kind)
    return SourceFile(
        url, found.name, int(found.info.size), modified_ns(found.place.fs, found.info), known, compression
    )


def _extension(name: str) -> str:
    return "".join(PurePosixPath(name).suffixes[-2:]) or name


def _check_names(sources: Iterable[SourceFile]) -> None:
    """Derived ids are `name#row`: equal names would give equal ids."""
    owners: dict[str, str] = {}
    for source in sources:
        other = owners.setdefault(source.name, source.url)
        if other != source.url:
            raise ConfigError(
                f"input: {other} and {source.url} would both give ids '{source.name}#...'; name their common folder "
                "in one pattern (such as 'folder/*/name'), rename one, or set input.id to a column of unique ids"
            )


def _sibling(place: _Place, path: str | None = None) -> str:
    """`; did you mean 'x'?` with what really is beside the first missing step of a path."""
    step = PurePosixPath(path or place.path)
    try:
        while step.parent != step and place.fs.get_file_info(str(step.parent)).type != pafs.FileType.Directory:
            step = step.parent
        if step.parent == step or str(step.parent) == ".":
            return ""
        entries = place.fs.get_file_info(pafs.FileSelector(str(step.parent)))
    except OSError:  # a folder that cannot be listed gives no hint; the caller's own words are enough
        return ""
    return nearest(step.name, [entry.base_name for entry in entries])


def _few(items: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(sorted(items)[:most])
    return shown + (f" and {len(items) - most} more" if len(items) > most else "")
