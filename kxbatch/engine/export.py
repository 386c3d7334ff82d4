"""Joins the stages of an output into one flat dataset for others.

A folder gets one Parquet part for each shard, written shard by shard and put in place as a whole; a single file is for data
small enough to be opened by a person. Vector columns stay fixed-size lists in Parquet and become JSON lists in JSONL and CSV.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import polars as pl
import pyarrow as pa

from kxbatch.data.filesystems import absolute
from kxbatch.data.parts import publish_part, read_footer
from kxbatch.data.storage import File, Folder
from kxbatch.data.swap import Swap
from kxbatch.engine.joined import Joined
from kxbatch.engine.output import Output
from kxbatch.errors import ConfigError, DataError, nearest

Format = Literal["parquet", "jsonl", "csv"]
KIND = "export"
MOST_ROWS = 1_000_000
_SUFFIXES: dict[str, Format] = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder or file.
        format: its format.
        rows: rows written.
        parts: files written.
        columns: names of the columns, in order.
        stages: stages that have finished shards, in job order.
    """

    path: str
    format: Format
    rows: int
    parts: int
    columns: list[str]
    stages: list[str]


def export(
    output: Output,
    target: str | Path,
    *,
    columns: Sequence[str] | None = None,
    format: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write one flat dataset.

    Args:
        output: the output.
        target: a folder, or a file ending in `.parquet`, `.jsonl` or `.csv`.
        columns: names in the joined frame (`id` always comes along); absent: all.
        format: absent: by the target's name; a folder is Parquet.
        overwrite: replace a target that this output did not write.

    Raises:
        ConfigError: an unknown column, a target in use, or more rows than a single file should have.
        DataError: a part is gone or damaged, or somebody else wrote to the target meanwhile.
    """
    path = _place(output, target)
    joined = Joined.of(output, columns)
    kind = _format(path, format)
    if path.is_dir() or (kind == "parquet" and not path.suffix):
        if kind != "parquet":
            raise ConfigError(f"{path} is a folder; {kind} is one file, name it: {path / ('export.' + kind)}")
        rows, parts = _write_folder(joined, path, overwrite), len(joined.keys)
    else:
        rows, parts = _write_file(joined, path, kind, overwrite), 1
    return Exported(str(path), kind, rows, parts, joined.schema.names, joined.stages)


def _format(path: Path, format: str | None) -> Format:
    if format is None:
        if path.suffix and path.suffix not in _SUFFIXES and not path.is_dir():
            allowed = list(_SUFFIXES)
            raise ConfigError(
                f"{path}: unknown file type '{path.suffix}'{nearest(path.suffix, allowed)} "
                f"(allowed: {', '.join(allowed)}, or a folder); or say --format"
            )
        return _SUFFIXES.get(path.suffix, "parquet") if not path.is_dir() else "parquet"
    for known in get_args(Format):
        if known == format:
            found: Format = known
            return found
    raise ConfigError(f"--format {format}: allowed: {', '.join(get_args(Format))}{nearest(format, get_args(Format))}")


def _footer(joined: Joined, keys: Sequence[str]) -> dict[str, str]:
    """Footer metadata of a file that holds these shards."""
    record = joined.output.record
    return {
        "kind": KIND,
        "job": str(record["job"]["name"]),
        "output": joined.output.folder.path,
        "fingerprint": str(record["fingerprint"]),
        "inputs": "; ".join(joined.inputs(keys)),
    }


def _place(output: Output, target: str | Path) -> Path:
    """Absolute path of the target."""
    if "://" in str(target):
        raise ConfigError(f"--to {target}: exports are written to local or mounted folders; copy the result from there")
    path = Path(absolute(str(target), Path.cwd()))
    if output.folder.file("x").remote:
        return path
    root, real = Path(output.folder.path).resolve(), path.resolve()
    if real == root or root in real.parents or real in root.parents:
        raise ConfigError(f"{path}: inside or around the output {root}; write beside it")
    return path


def _write_folder(joined: Joined, path: Path, overwrite: bool) -> int:
    rows = 0
    with Swap(path) as swap:
        _check_folder(joined, swap.target, overwrite)
        for key, table in joined.tables():
            publish_part(swap.new, f"{key}.parquet", table, _footer(joined, [key]))
            rows += table.num_rows
        swap.commit()
    return rows


def _check_folder(joined: Joined, path: Path, overwrite: bool) -> None:
    """A folder is replaced when it is empty, an earlier export of this output, or a dataset that may be overwritten."""
    if not path.exists():
        return
    entries = sorted(path.iterdir())
    foreign = [entry.name for entry in entries if entry.suffix != ".parquet" or not entry.is_file()]
    if foreign:
        raise ConfigError(
            f"{path}: has more than Parquet files ({', '.join(foreign[:3])}), which an export would remove; "
            "choose a new or empty folder"
        )
    if not overwrite and not all(_is_export(joined, entry) for entry in entries):
        raise ConfigError(
            f"{path}: holds Parquet files that are no export of {joined.output.folder.path}; "
            "choose a new or empty folder, or say --overwrite to replace them"
        )


def _is_export(joined: Joined, file: Path) -> bool:
    try:
        footer = read_footer(File(str(file)))[2]
    except DataError:
        return False
    return footer.get("kind") == KIND and footer.get("output") == joined.output.folder.path


def _write_file(joined: Joined, path: Path, format: Format, overwrite: bool) -> int:
    if joined.most_rows > MOST_ROWS:
        raise ConfigError(
            f"{path}: {joined.most_rows} rows are too many for a single file (most: {MOST_ROWS}); "
            "name a folder to get Parquet parts"
        )
    if path.exists() and not overwrite and not (format == "parquet" and _is_export(joined, path)):
        raise ConfigError(f"{path}: exists; say --overwrite to replace it")
    folder = Folder(str(path.parent))
    if format == "parquet":
        table = pa.concat_tables([table for _, table in joined.tables()])
        publish_part(folder, path.name, table, _footer(joined, joined.keys))
        return int(table.num_rows)
    rows = 0

    def write(sink: Any) -> None:
        nonlocal rows
        for number, (_, frame) in enumerate(joined.frames()):
            text = frame.write_ndjson() if format == "jsonl" else _csv(frame, header=number == 0)
            sink.write(text.encode())
            rows += frame.height

    folder.publish(path.name, write)
    return rows


def _csv(frame: pl.DataFrame, *, header: bool) -> str:
    """CSV; lists are JSON in one field."""
    nested = [name for name, kind in frame.schema.items() if kind.is_nested()]
    lists = [
        pl.when(pl.col(name).is_not_null())
        .then(pl.struct(pl.col(name).alias("v")).struct.json_encode().str.strip_prefix('{"v":').str.strip_suffix("}"))
        .alias(name)
        for name in nested
    ]
    return frame.with_columns(lists).write_csv(include_header=header)
