"""The corpus of a job: its files cut into shards once, and the cut kept for ever.

The manifest freezes which rows are which shard. New files get new numbers, a changed file is cut again, and the numbers of
everything else stay, so that yesterday's results stay valid.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs

from kxbatch.data.filesystems import resolve
from kxbatch.data.sources import Cut, ReadOptions, SourceFile, SourceScan, column_names, discover, scan
from kxbatch.data.spans import is_list, is_undecided
from kxbatch.engine.job import Job
from kxbatch.engine.manifest import CorpusPlan, Shard, Source, column_kind, id_hashes, load_manifest
from kxbatch.errors import ConfigError, DataError, nearest
from kxbatch.spec.model import InputSection


def read_options(section: InputSection) -> ReadOptions:
    """How the readers should behave."""
    return ReadOptions(
        text_per=section.text_per,
        max_ratio=section.max_ratio,
        names=section.names,
        types=section.types,
        tsv_quotes=section.tsv_quotes,
        join=section.join,
    )


def plan_corpus(job: Job) -> CorpusPlan:
    """List the input, compare it with the manifest, and cut what is new. Writes nothing.

    A job without an input keeps what an earlier one left.

    Raises:
        ConfigError: nothing matches, no rows, ids that are not unique, or an output that belongs to another job.
        DataError: a file that cannot be read.
    """
    section = job.spec.input
    old = load_manifest(job)
    if not section.path:
        return old or CorpusPlan(job.spec.job.name, pa.schema([]), (), 0)
    files = discover(section.path, base=job.base, format=section.format, id_column=section.id)
    known = {source.file.url: source for source in old.sources} if old else {}
    found = {file.url: file for file in files}
    fresh = [f for f in files if f.url not in known or _changed(known[f.url].file, f)]
    scans, broken = _scan_all(fresh, section)
    if broken and len(broken) == len(files):
        raise DataError("\n".join(broken.values()))
    schema = _schema(old, scans, section)
    sources, number, notes = _renumber(known, found, scans, old.next_shard if old else 0, section)
    hashes = {s.source.url: s.id_hashes for s in scans if s.id_hashes is not None}
    lacking = {
        s.source.url: (tuple(s.schema.names), tuple(set(schema.names) - set(s.schema.names)))
        for s in scans
        if s.rows and s.source.format not in ("jsonl", "cluener", "cmeee")  # in JSON a key that is missing is a null
    }
    plan = CorpusPlan(job.spec.job.name, schema, sources, number, hashes, notes, broken, lacking)
    if plan.rows == 0:
        raise ConfigError(f"{job.origin}: input.path: {len(files)} file(s) match, but none has a row")
    if fresh and section.id is not None:
        _check_unique(job, plan, section.id)
    return plan


def input_columns(job: Job) -> frozenset[str]:
    """Columns that some file of the input has; files that cannot be read have none. Reads the first rows alone.

    Raises:
        ConfigError: nothing matches.
    """
    section, found = job.spec.input, set()
    for file in discover(section.path, base=job.base, format=section.format, id_column=section.id):
        with suppress(DataError):
            found |= set(column_names(file, read_options(section)))
    return frozenset(found)


def _scan_all(files: Sequence[SourceFile], section: InputSection) -> tuple[list[SourceScan], dict[str, str]]:
    """Scan files; one that cannot be read does not keep the others from being used."""
    scans, broken = [], {}
    for file in files:
        try:
            scans.append(
                scan(file, target_bytes=section.shard_size, id_column=section.id, options=read_options(section))
            )
        except DataError as error:
            broken[file.url] = str(error)
    return scans, broken


def _changed(old: SourceFile, new: SourceFile) -> bool:
    return (old.size, old.modified_ns) != (new.size, new.modified_ns)


def _schema(old: CorpusPlan | None, scans: Sequence[SourceScan], section: InputSection) -> pa.Schema:
    """The frozen schema, or the one all files agree on; the id column stays in it whatever `columns` says."""
    filled = [s for s in scans if s.rows]
    if old is not None and not old.sources:  # there was no input
        old = None
    schema = old.schema if old is not None else _agreed(filled)
    if old is None and section.columns is not None:
        _check_columns(schema, section)
        offered = [*section.columns, *([section.id] if section.id else [])]
        schema = pa.schema([field for field in schema if field.name in offered])
    for found in filled:
        for column in schema:
            own = found.schema.field(column.name).type if column.name in found.schema.names else column.type
            if is_undecided(own) and is_list(column.type):
                continue  # its lists are all empty: they are of whatever the others are
            if column_kind(own) != column_kind(column.type) and found.source.format not in ("csv", "tsv"):
                raise ConfigError(
                    f"{found.source.url}: column '{column.name}' is {own}, but the corpus has it as {column.type}; "
                    "convert the file or leave it out"
                )
    return schema


def _agreed(scans: Sequence[SourceScan]) -> pa.Schema:
    """One schema for all files. Every CSV value can be read as text, so there text settles a disagreement.

    Lists that are empty in every file are vectors; Parquet says itself what they are.
    """
    fields: dict[str, pa.Field] = {}
    for found in scans:
        for own in found.schema:
            known = fields.get(own.name, own)
            try:
                fields[own.name] = pa.unify_schemas(
                    [pa.schema([known]), pa.schema([own])], promote_options="permissive"
                )[0]
            except (pa.ArrowInvalid, pa.ArrowTypeError):
                if found.source.format not in ("csv", "tsv"):
                    raise ConfigError(
                        f"{found.source.url}: column '{own.name}' is {own.type}, but {known.type} in another file; "
                        "convert one of them or leave it out"
                    ) from None
                fields[own.name] = pa.field(own.name, pa.string())
    for name in {name for found in scans if found.source.format != "parquet" for name in found.schema.names}:
        if is_undecided(fields[name].type):
            fields[name] = pa.field(name, pa.list_(pa.float64()))
    return pa.schema(list(fields.values()))


def check_readable(plan: CorpusPlan, needed: Collection[str]) -> None:
    """Every file must have the columns that are read from it.

    Args:
        plan: of the corpus.
        needed: columns that stages read from the input.

    Raises:
        ConfigError: naming the file, the columns and the nearest match.
    """
    for url, (has, lacks) in plan.lacking.items():
        for name in sorted(set(lacks) & set(needed)):
            raise ConfigError(f"{url}: no column '{name}'{nearest(name, has)} (has: {', '.join(has)})")


def _check_columns(schema: pa.Schema, section: InputSection) -> None:
    for name in section.columns or ():
        if name not in schema.names and schema.names:
            raise ConfigError(
                f"input.columns: no column '{name}'{nearest(name, schema.names)} (the files have: {', '.join(schema.names)})"
            )


def _renumber(
    known: dict[str, Source],
    found: dict[str, SourceFile],
    scans: Sequence[SourceScan],
    number: int,
    section: InputSection,
) -> tuple[tuple[Source, ...], int, tuple[str, ...]]:
    """Sources with their shard numbers; a file that changed takes its old numbers first."""
    sources, notes = dict(known), []
    for result in scans:
        url = result.source.url
        reusable = [shard.number for shard in known[url].shards] if url in known else []
        if url in known:
            notes.append(f"{url} changed since it was read")
        numbers = (reusable + list(range(number, number + len(result.cuts))))[: len(result.cuts)]
        number = max([number, *(n + 1 for n in numbers)])
        shards = tuple(Shard(n, cut) for n, cut in zip(numbers, result.cuts, strict=True))
        sources[url] = Source(result.source, shards)
    for url in sorted(known.keys() - found.keys()):
        if section.removed == "drop":
            del sources[url]
            notes.append(f"{url} is gone; its rows are dropped (input.removed)")
        elif _exists(url):
            del sources[url]
            notes.append(f"{url} is no longer named by input.path; its rows are dropped")
        else:
            sources[url] = replace(sources[url], present=False)
            notes.append(f"{url} is gone; its rows are kept as they were computed (input.removed)")
    for url in found.keys() & sources.keys():
        sources[url] = replace(sources[url], present=True)
    return tuple(sources[url] for url in sorted(sources)), number, tuple(sorted(notes))


def _exists(url: str) -> bool:
    filesystem, path = resolve(url, None)
    return bool(filesystem.get_file_info(path).type != pa.fs.FileType.NotFound)


def _check_unique(job: Job, plan: CorpusPlan, column: str) -> None:
    """Equal 64-bit hashes of ids are equal ids, but for one chance in 2^64 for each pair; then renaming one mends it."""
    hashes = [id_hashes(job.output, plan, source.file.url) for source in plan.sources]
    everything = np.concatenate(hashes) if hashes else np.empty(0, np.uint64)
    distinct, counts = np.unique(everything, return_counts=True)
    if len(distinct) == len(everything):
        return
    doubled = distinct[counts > 1]
    files = [s.file.url for s, h in zip(plan.sources, hashes, strict=True) if np.isin(h, doubled).any()]
    example = _find_id(plan, column, int(doubled[0]), read_options(job.spec.input))
    raise ConfigError(
        f"{job.origin}: input.id: column '{column}' is not unique: {len(doubled)} id(s) stand more than once"
        f"{example}, in {', '.join(files[:3])}{' ...' if len(files) > 3 else ''}; "
        "use another column, or leave input.id out to get ids from file names and row numbers"
    )


def _find_id(plan: CorpusPlan, column: str, wanted: int, options: ReadOptions) -> str:
    from kxbatch.data.sources import hash_ids, read

    for source, shard in plan.shards():
        if source.present:
            ids = read(source.file, shard.cut, columns=[], schema=plan.schema, id_column=column, options=options).table[
                "id"
            ]
            rows = np.flatnonzero(hash_ids(ids) == wanted)
            if len(rows):
                return f" (for example {ids[int(rows[0])].as_py()!r})"
    return ""


def source_task(source: Source, shard: Shard, limit: int | None) -> dict[str, Any]:
    """What a worker needs to read a shard of the input."""
    # Not asdict, which costs tens of times as much for flat fields, and there is a task a shard.
    return {"source": dict(vars(source.file)), "cut": dict(vars(shard.cut)), "limit": limit}


def read_source(task: Any, columns: Sequence[str], schema: pa.Schema, section: InputSection) -> Any:
    """Read a shard of the input, as `source_task` described it.

    Raises:
        DataError: the file is gone or changed.
    """
    from kxbatch.data.sources import read

    file = SourceFile(**task["source"])
    try:
        result = read(
            file,
            Cut(**task["cut"]),
            columns=columns,
            schema=schema,
            id_column=section.id,
            options=read_options(section),
        )
    except FileNotFoundError:
        raise DataError(f"{file.url}: gone since it was listed; restore it, or set input.removed = 'drop'") from None
    return result
