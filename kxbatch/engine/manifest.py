"""The manifest of an output: its corpus as it was cut, on disk.

It freezes which rows are which shard, for ever: every receipt is about a shard of it.
"""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, TypeAdapter

from kxbatch.data.documents import Document, publish_sealed, read_sealed
from kxbatch.data.receipts import BOOKKEEPING, Count
from kxbatch.data.sources import Compression, Cut, Format, SourceFile
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import is_vector
from kxbatch.engine.job import Job
from kxbatch.errors import ConfigError, FatalError
from kxbatch.stages.base import ColumnKind

MANIFEST = f"{BOOKKEEPING}/manifest.json"
VERSION = 1
_MEND = "restore it, or remove it and run the job again, which cuts the input anew and keeps what still fits"


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
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return "image"  # as far as a type can tell
    return "vector" if is_vector(kind) else "other"


def _hash_name(url: str) -> str:
    return f"{BOOKKEEPING}/ids/{hashlib.sha256(url.encode()).hexdigest()[:24]}.npy"


def id_hashes(output: Folder, plan: CorpusPlan, url: str) -> npt.NDArray[np.uint64]:
    """64-bit hashes of the ids of a file, from this plan or from the run that cut the file.

    Raises:
        FatalError: the file of them is damaged or gone.
    """
    if url in plan.id_hashes:
        return plan.id_hashes[url]
    name = _hash_name(url)
    try:
        found: npt.NDArray[np.uint64] = np.load(io.BytesIO(output.read(name)), allow_pickle=False)
        if found.dtype != np.uint64 or found.ndim != 1:
            raise ValueError(f"{found.dtype}{list(found.shape)}, expected uint64[n]")
    except (ValueError, EOFError, OSError, MemoryError, SyntaxError) as error:  # NumPy has no error of its own
        raise FatalError(
            f"{output.file(name)}: damaged ({error}); restore it, or remove {output.file(MANIFEST)} "
            "and run the job again, which reads the ids anew"
        ) from None
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
                "file": vars(source.file),
                "present": source.present,
                "shards": [{"number": shard.number, **vars(shard.cut)} for shard in source.shards],
            }
            for source in plan.sources
        ],
    }
    publish_sealed(output, MANIFEST, document)


class _File(Document):
    url: str
    name: str
    size: Count
    modified_ns: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    format: Format
    compression: Compression


class _Shard(Document):
    number: Annotated[Count, Field(lt=2**31)]
    start: Count
    stop: Count
    first_row: Count
    rows: Count
    bytes: Count
    first_line: Count


class _Source(Document):
    file: _File
    present: bool
    shards: list[_Shard]


class _Manifest(Document):
    version: int
    job: str
    next_shard: Annotated[Count, Field(lt=2**31)]
    schema_: str = Field(alias="schema")
    sources: list[_Source]


_SHAPE = TypeAdapter(_Manifest)


def load_manifest(job: Job) -> CorpusPlan | None:
    """The plan that earlier runs froze, None before the first.

    Raises:
        ConfigError: the output belongs to another job, or is a folder of something else.
        FatalError: it is damaged.
    """
    plan = read_manifest(job.output)
    if plan is None:
        _refuse_foreign(job)
    elif plan.job != job.spec.job.name:
        raise ConfigError(
            f"{job.output.path} belongs to the job '{plan.job}', not to '{job.spec.job.name}'; "
            "give this job an output of its own (job.output), or remove that folder"
        )
    return plan


def read_manifest(output: Folder) -> CorpusPlan | None:
    """The plan that the runs of an output froze, None where there is none.

    Raises:
        ConfigError: another version of kxbatch wrote it.
        FatalError: it is damaged.
    """
    versioned = output.read_json(MANIFEST)
    if isinstance(versioned, dict) and versioned.get("version", VERSION) != VERSION:
        raise ConfigError(f"{output.path}: written by another version of kxbatch; write to a new output")
    raw = read_sealed(output, MANIFEST, _SHAPE, _MEND)
    if raw is None:
        return None
    try:
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(raw["schema"])))
        schema.names, str(schema)  # names that are no text come out here
    except (ValueError, OSError, pa.ArrowException) as error:
        raise FatalError(f"{output.file(MANIFEST)}: damaged, schema: {error}; {_MEND}") from None
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
