"""Fuzz targets: bytes in; an assertion, a crash or a hang is a finding. Shared by hypothesis and the guided fuzzer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path

from fuzz.guard import declared, put
from fuzz.reader_case import PLAIN, SEEDS, ReadOptions, Rows, check_lines, read_all
from support import sealed

from kxbatch.data.receipts import Receipt, load_receipt
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import read_card
from kxbatch.engine.defects import recorded_defects
from kxbatch.engine.job import Job, load_job
from kxbatch.engine.manifest import read_manifest
from kxbatch.engine.phases.pairing import recorded_patches
from kxbatch.engine.record import read_record
from kxbatch.errors import ConfigError, FatalError, KxbatchError

ROOT = Path(__file__).parents[2]
Target = Callable[[bytes], object]
SMALL = ReadOptions(max_line_bytes=60, block_bytes=7)


@cache
def place() -> Path:
    """A folder for the one file of a case."""
    return Path(tempfile.mkdtemp(prefix="kxbatch-fuzz-"))


def job_file(data: bytes) -> Job | KxbatchError:
    """A job file: a `Job` whose values, written out and read again, give the same job; or a `ConfigError` that names the file."""
    path = place() / "job.toml"
    put(path, data)
    found = declared(lambda: load_job(path, environment={}))
    if isinstance(found, Job):
        again = load_job(found.spec.model_dump(mode="json"), environment={})
        assert again.spec.model_dump() == found.spec.model_dump()
    else:
        assert isinstance(found, ConfigError), found
        assert "job.toml" in str(found), found
    return found


def receipt(data: bytes) -> Receipt | None:
    """A receipt: exactly the values that were written, or none."""
    found = declared(lambda: load_receipt(data))
    if found is not None:
        assert asdict(found) | {"checksum": json.loads(data)["checksum"]} == json.loads(data)
        assert len(found.fingerprint) == 32
    return found


def document(name: str, read: Callable[[Folder], object], data: bytes) -> object:
    """A document of an output: its values, or a `FatalError` or `ConfigError` that names it."""
    put(place() / name, data)
    found = declared(lambda: read(Folder(str(place()))))
    if isinstance(found, KxbatchError):
        assert isinstance(found, FatalError | ConfigError), found
        assert Path(name).name in str(found) or "another version" in str(found), found
    return found


def source_file(name: str, data: bytes) -> Rows | KxbatchError:
    """A source file: every row read or set aside, or a file refused by name; the same rows in small blocks and cuts."""
    path = place() / name
    put(path, data)
    found = declared(lambda: read_all(path))
    if isinstance(found, KxbatchError):
        assert name in str(found), found
        return found
    if name in ("a.jsonl", "a.txt"):
        check_lines(name, data, found)
    small = declared(lambda: read_all(path, SMALL, target=50))
    if not isinstance(small, KxbatchError):
        assert small.rows == found.rows or (
            name == "a.conll" and small.rows > found.rows
        )  # long comments are set aside
    return found


def job_seeds() -> list[bytes]:
    """The shipped job files."""
    return [path.read_bytes() for path in sorted((ROOT / "jobs").glob("*.toml"))]


RECEIPT = {
    "phase": "map", "key": "part-00000", "ingredients": {"configuration": "0f", "input": "3a"}, "file": "part-00000.parquet",
    "bytes": 4096, "digest": "ab" * 32, "rows_in": 10, "rows_out": 9, "quarantined": 1, "counters": {"tokens": 3.0},
    "run": "20260101T000000-abcdef", "token": 1, "attempt": 1, "host": "h", "worker": "h/1", "started": "2026-01-01T00:00:00+00:00",
    "seconds": 0.5, "peak_rss": 1, "quarantine_digest": "cd" * 32,
}  # fmt: skip
DOCUMENT_READERS: dict[str, tuple[str, Callable[[Folder], object]]] = {
    "manifest": ("_kxbatch/manifest.json", read_manifest),
    "defects": ("_kxbatch/defects.json", recorded_defects),
    "record": ("run.json", read_record),
    "card": ("card.json", read_card),
    "patches": ("_kxbatch/patches.json", recorded_patches),
}


def targets() -> dict[str, tuple[Target, list[bytes]]]:
    """Name -> target and seeds."""
    found: dict[str, tuple[Target, list[bytes]]] = {"job": (job_file, job_seeds())}
    found["receipt"] = (receipt, [sealed(RECEIPT).encode()])
    found |= {name: (partial(document, *at), [b"{}"]) for name, at in DOCUMENT_READERS.items()}
    return found | {name: (partial(source_file, name), seeds) for name, seeds in SEEDS.items()}


__all__ = ["PLAIN", "document", "job_file", "receipt", "source_file", "targets"]
