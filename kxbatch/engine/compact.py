"""Rewrites many small parts of a flat dataset into few, in place.

The new parts are made beside the dataset and take its place in one step (`kxbatch.data.swap`), so a reader never meets a row
twice or misses one, and a killed compaction leaves the dataset as it was or finished. Rows keep their order. Parts that are large
enough already are linked, not copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from kxbatch.data.parts import part_name, publish_part, read_footer, read_part
from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import Folder
from kxbatch.data.swap import Swap
from kxbatch.errors import ConfigError, DataError, FatalError

SUFFIX = ".parquet"


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        path: the dataset.
        parts_before: Parquet files it had.
        parts_after: Parquet files it has now; the same number means that nothing was done.
        rows: rows, the same before and after.
        bytes_before: size of the files it had.
        bytes_after: size of the files it has now.
    """

    path: str
    parts_before: int
    parts_after: int
    rows: int
    bytes_before: int
    bytes_after: int


def compact(path: str | Path, target_bytes: int) -> Compaction:
    """Merge neighbouring parts of a flat dataset until they reach a size.

    Holds the rows of one new part in memory. Schema metadata other than `kxbatch.*` is not kept.

    Args:
        path: a folder of Parquet files without subfolders, such as an export.
        target_bytes: largest sum of the sizes of parts that become one.

    Raises:
        ConfigError: no such dataset, or one that belongs to a job.
        DataError: parts that do not agree on their columns or cannot be read; nothing was changed.
        LeaseHeld: another compaction or export is at work beside it.
    """
    if "://" in str(path):
        raise ConfigError(
            f"{path}: only a local or mounted folder can be replaced in one step; compact it before it is copied"
        )
    if not Path(path).parent.is_dir():
        raise ConfigError(f"{path}: no such folder")
    with Swap(Path(path)) as swap:
        dataset = Folder(str(swap.target))
        names = _flat_parts(dataset)
        sizes = [dataset.size(name) or 0 for name in names]
        groups = group_by_size(sizes, target_bytes)
        schema, rows = _common_schema(dataset, names)
        before = sum(sizes)
        if len(groups) == len(names):
            return Compaction(dataset.path, len(names), len(names), rows, before, before)
        for number, group in enumerate(groups):
            _write(dataset, [names[i] for i in group], swap.new, part_name(number), schema)
        _carry_over(dataset, swap.new)
        made = swap.new.names(SUFFIX)
        after = sum(swap.new.size(name) or 0 for name in made)
        _check_rows(swap.new, made, rows)
        swap.commit()
    return Compaction(dataset.path, len(names), len(made), rows, before, after)


def group_by_size(sizes: Sequence[int], target: int) -> list[list[int]]:
    """Runs of neighbours whose sizes add up to at most `target`; one that is larger stands alone.

    Args:
        sizes: bytes of each part, in order.
        target: bytes a run may have.

    Returns:
        Indices of the parts of each run, in order.
    """
    groups: list[list[int]] = []
    total = 0
    for index, size in enumerate(sizes):
        if not groups or total + size > target:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += size
    return groups


def _flat_parts(dataset: Folder) -> list[str]:
    """Names of the parts, in order.

    Raises:
        ConfigError: what it is instead of a flat dataset.
    """
    root = Path(dataset.path)
    if not root.is_dir():
        raise ConfigError(f"{root}: no such folder")
    for folder in (root, *root.parents):
        if (folder / BOOKKEEPING).is_dir():
            raise ConfigError(
                f"{root} belongs to a job, whose receipts vouch for every part as it is; make a flat copy first: "
                f"kxbatch export OUTPUT --to PATH, then compact that"
            )
    inner = sorted(entry.name for entry in root.iterdir() if entry.is_dir())
    if inner:
        raise ConfigError(f"{root}: has subfolders ({', '.join(inner[:3])}); compact each flat folder by itself")
    names = list(dataset.names(SUFFIX))
    if not names:
        raise ConfigError(f"{root}: no {SUFFIX} files here")
    return names


def _common_schema(dataset: Folder, names: Sequence[str]) -> tuple[pa.Schema, int]:
    """The columns that all parts share, nullable where any is, and the number of rows."""
    footers = [read_footer(dataset.file(name)) for name in names]
    first = footers[0][0]
    for name, (schema, _, _) in zip(names, footers, strict=True):
        if schema.names != first.names or schema.types != first.types:
            odd = [
                f"{f.name}: {f.type}" for f in schema if f.name not in first.names or first.field(f.name).type != f.type
            ]
            raise DataError(
                f"{dataset.path}: {name} and {names[0]} do not agree on their columns "
                f"({'; '.join(odd) or 'order or number differ'}); nothing was changed"
            )
    nullable = [any(schema.field(i).nullable for schema, _, _ in footers) for i in range(len(first))]
    fields = [field.with_nullable(null) for field, null in zip(first, nullable, strict=True)]
    return pa.schema(fields), sum(rows for _, rows, _ in footers)


def _write(dataset: Folder, names: Sequence[str], new: Folder, name: str, schema: pa.Schema) -> None:
    if len(names) == 1:
        _link(Path(dataset.file(names[0]).path), Path(new.file(name).path))
        return
    tables = [read_part(dataset.file(part)).select(schema.names) for part in names]
    table = pa.concat_tables([pa.Table.from_arrays(t.columns, schema=schema) for t in tables])
    publish_part(new, name, table, _merged_footer(dataset, names))


def _merged_footer(dataset: Folder, names: Sequence[str]) -> dict[str, str]:
    """What all parts say, once; where they differ (the inputs of an export), all of it."""
    footers = [read_footer(dataset.file(name))[2] for name in names]
    keys = dict.fromkeys(key for footer in footers for key in footer)
    return {key: "; ".join(dict.fromkeys(footer[key] for footer in footers if key in footer)) for key in keys}


def _carry_over(dataset: Folder, new: Folder) -> None:
    """Whatever else lies in the folder, such as a README, stays there."""
    for entry in Path(dataset.path).iterdir():
        if entry.suffix != SUFFIX:
            _link(entry, Path(new.file(entry.name).path))


def _link(old: Path, new: Path) -> None:
    try:
        os.link(old, new, follow_symlinks=False)
    except OSError:  # a file system without hard links
        shutil.copy2(old, new, follow_symlinks=False)


def _check_rows(new: Folder, names: Sequence[str], rows: int) -> None:
    found = sum(read_footer(new.file(name))[1] for name in names)
    if found != rows:
        raise FatalError(f"{new.path}: {found} rows instead of {rows}; nothing was changed")
