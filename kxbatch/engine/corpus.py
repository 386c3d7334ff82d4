"""The corpus of a job: its files cut into shards once, and the cut kept for ever.

The manifest freezes which rows are which shard. New files get new numbers, a changed file is cut again, and the numbers of
everything else stay, so that yesterday's results stay valid.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.fs

from kxbatch.data.filesystems import resolve
from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.sources import Cut, ReadOptions, SourceFile, SourceScan, discover, scan
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import is_vector
from kxbatch.engine.job import Job
from kxbatch.errors import ConfigError, DataError, nearest
from kxbatch.spec.model import InputSection
from kxbatch.stages.base import ColumnKind

MANIFEST = f"{BOOKKEEPING}/manifest.json"
VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A run of rows of one source file, with its number for life."""

    number: int
    cut: Cut


@dataclass(frozen=True)
class Source:
    """A source file as it was when it was cut.

    Attributes:
        file: the file.
        shards: its shards.
        present: whether it is still there.
    """

    file: SourceFile
    shards: tuple[Shard, ...]
    present: bool = True


@dataclass(frozen=True)
class CorpusPlan:
    """All shards of the input, and what is new since the manifest was written.

    Attributes:
        job: name of the job the output belongs to.
        schema: columns of the input, frozen by the first run.
        sources: files and their shards, by URL.
        next_shard: first number never used.
        id_hashes: of new files, where ids are a column: 64-bit hashes by URL.
        notes: what changed about the files, in words.
        broken: files that cannot be read, with the reason; the rest goes on without them.
        lacking: of new files: the columns they have, and those of the schema they have not.
    """

    job: str
    schema: pa.Schema
    sources: tuple[Source, ...]
    next_shard: int
    id_hashes: dict[str, npt.NDArray[np.uint64]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = field(default_factory=dict)

    @property
    def columns(self) -> dict[str, ColumnKind]:
        """Columns of the input and their kinds."""
        return {f.name: column_kind(f.type) for f in self.schema}

    def shards(self) -> list[tuple[Source, Shard]]:
        """All shards, in the order of their numbers."""
        pairs = [(source, shard) for source in self.sources for shard in source.shards]
        return sorted(pairs, key=lambda pair: pair[1].number)

    @property
    def rows(self) -> int:
        """Rows of the corpus, as far as the scan could tell good ones from bad ones: all physical rows."""
        return sum(shard.cut.rows for _, shard in self.shards())


def column_kind(kind: pa.DataType) -> ColumnKind:
    """What a stage may use a column for."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    return "vector" if is_vector(kind) else "other"


def read_options(section: InputSection) -> ReadOptions:
    """How the readers should behave."""
    return ReadOptions(text_per=section.text_per, max_ratio=section.max_ratio)


def plan_corpus(job: Job) -> CorpusPlan:
    """List the input, compare it with the manifest, and cut what is new. Writes nothing.

    Raises:
        ConfigError: nothing matches, no rows, ids that are not unique, or an output that belongs to another job.
        DataError: a file that cannot be read.
    """
    section = job.spec.input
    old = load_manifest(job)
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
        if s.rows and s.source.format != "jsonl"  # in JSONL a key that is missing is a null
    }
    plan = CorpusPlan(job.spec.job.name, schema, sources, number, hashes, notes, broken, lacking)
    if plan.rows == 0:
        raise ConfigError(f"{job.origin}: input.path: {len(files)} file(s) match, but none has a row")
    if fresh and section.id is not None:
        _check_unique(job, plan, section.id)
    return plan


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
    schema = old.schema if old is not None else _agreed(filled)
    if old is None and section.columns is not None:
        _check_columns(schema, section)
        offered = [*section.columns, *([section.id] if section.id else [])]
        schema = pa.schema([field for field in schema if field.name in offered])
    for found in filled:
        for column in schema:
            own = found.schema.field(column.name).type if column.name in found.schema.names else column.type
            if column_kind(own) != column_kind(column.type) and found.source.format not in ("csv", "tsv"):
                raise ConfigError(
                    f"{found.source.url}: column '{column.name}' is {own}, but the corpus has it as {column.type}; "
                    "convert the file or leave it out"
                )
    return schema


def _agreed(scans: Sequence[SourceScan]) -> pa.Schema:
    """One schema for all files. Every CSV value can be read as text, so there text settles a disagreement."""
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
    hashes = [_hashes(job.output, plan, source.file.url) for source in plan.sources]
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


def _hash_name(url: str) -> str:
    return f"{BOOKKEEPING}/ids/{hashlib.sha256(url.encode()).hexdigest()[:24]}.npy"


def _hashes(output: Folder, plan: CorpusPlan, url: str) -> npt.NDArray[np.uint64]:
    if url in plan.id_hashes:
        return plan.id_hashes[url]
    name = _hash_name(url)
    if not output.exists(name):
        return np.empty(0, np.uint64)
    found: npt.NDArray[np.uint64] = np.load(io.BytesIO(output.read(name)), allow_pickle=False)
    return found


def _save_array(array: npt.NDArray[np.uint64], sink: Any) -> None:
    np.save(sink, array, allow_pickle=False)


def save_manifest(output: Folder, plan: CorpusPlan) -> None:
    """Freeze the plan: id hashes first, the manifest last."""
    for url, hashes in plan.id_hashes.items():
        output.publish(_hash_name(url), partial(_save_array, hashes))
    document = {
        "version": VERSION,
        "job": plan.job,
        "next_shard": plan.next_shard,
        "columns": {f.name: str(f.type) for f in plan.schema},
        "schema": base64.b64encode(plan.schema.serialize().to_pybytes()).decode(),
        "sources": [
            {
                "file": asdict(source.file),
                "present": source.present,
                "shards": [{"number": shard.number, **asdict(shard.cut)} for shard in source.shards],
            }
            for source in plan.sources
        ],
    }
    output.publish_json(MANIFEST, document)


def load_manifest(job: Job) -> CorpusPlan | None:
    """The plan that earlier runs froze, None before the first.

    Raises:
        ConfigError: the output belongs to another job, or is a folder of something else.
    """
    output = job.output
    raw = output.read_json(MANIFEST)
    if raw is None:
        _refuse_foreign(job)
        return None
    if raw["version"] != VERSION:
        raise ConfigError(f"{output.path}: written by another version of kxbatch; write to a new output")
    if raw["job"] != job.spec.job.name:
        raise ConfigError(
            f"{output.path} belongs to the job '{raw['job']}', not to '{job.spec.job.name}'; "
            "give this job an output of its own (job.output), or remove that folder"
        )
    return parse_manifest(raw)


def parse_manifest(raw: Any) -> CorpusPlan:
    """The plan from its JSON form."""
    schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"])))
    return CorpusPlan(raw["job"], schema, tuple(_sources(raw["sources"])), raw["next_shard"])


def _sources(raw: Iterable[Any]) -> Iterable[Source]:
    for entry in raw:
        shards = tuple(
            Shard(s["number"], Cut(**{k: v for k, v in s.items() if k != "number"})) for s in entry["shards"]
        )
        yield Source(SourceFile(**entry["file"]), shards, entry["present"])


def _refuse_foreign(job: Job) -> None:
    strangers = [name for name in job.output.names() if name not in ("run.json", "log.jsonl")]
    if strangers and not job.output.exists(BOOKKEEPING):
        raise ConfigError(
            f"{job.output.path}: not empty and not an output of kxbatch (has {', '.join(strangers[:3])}); "
            "choose a new or empty folder as job.output"
        )


def source_task(source: Source, shard: Shard, limit: int | None) -> dict[str, Any]:
    """What a worker needs to read a shard of the input."""
    return {"source": asdict(source.file), "cut": asdict(shard.cut), "limit": limit}


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
