"""Rows set aside: looking at them, and running their shards again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.quarantine import SCHEMA, read_quarantine
from kxbatch.data.receipts import read_receipts
from kxbatch.data.sources import discover
from kxbatch.engine.manifest import read_manifest
from kxbatch.engine.output import Output
from kxbatch.errors import ConfigError, nearest


def set_aside(output: Output, *, stage: str | None = None, error: str | None = None) -> pa.Table:
    """Rows set aside by the stages of an output, in job order, then shard order.

    Args:
        output: the output.
        stage: only of this stage.
        error: only of this type.

    Raises:
        ConfigError: no such stage, or no row with such an error.
    """
    _check_stage(output, stage)
    tables = [read_quarantine(output.folder.child(name)) for name in output.stages if stage in (None, name)]
    table = pa.concat_tables(tables) if tables else SCHEMA.empty_table()
    if error is None:
        return table
    known = sorted(set(table.column("error").to_pylist()))
    if error not in known:
        raise ConfigError(f"--error {error}: no such row{nearest(error, known)} (has: {', '.join(known) or 'none'})")
    return table.filter(pc.equal(table.column("error"), error))


def shards_with_quarantine(output: Output, stage: str | None = None) -> dict[str, frozenset[str]]:
    """Stage -> shards of which rows are set aside.

    Raises:
        ConfigError: no such stage.
    """
    _check_stage(output, stage)
    found = {}
    for name in output.stages:
        receipts = read_receipts(output.folder.child(name), output.accounting_phase(name))
        keys = frozenset(key for key, receipt in receipts.items() if receipt.quarantined)
        if keys and stage in (None, name):
            found[name] = keys
    return found


def recorded_job(output: Output) -> tuple[dict[str, Any], Path]:
    """The job of an output as a mapping, and the folder to run it from.

    That folder is what stands before a relative `job.output`, else the current one. The files found from there must be those
    of the manifest: a look-alike in another folder would replace the corpus.

    Raises:
        ConfigError: the input files cannot be found from there.
    """
    recorded = dict(output.record["job"])
    section, stages = recorded.pop("input"), recorded.pop("stage")
    base = _base(output, str(recorded["output"]))
    job = {"job": recorded | {"output": output.folder.path}, "stage": stages}
    if not section["path"]:  # all its rows are made
        return job, base
    _check_same_files(output, section, base)
    return job | {"input": section}, base


def _base(output: Output, declared: str) -> Path:
    folder, relative = Path(output.folder.path), Path(declared)
    parts = relative.parts
    if "://" in declared or relative.is_absolute() or ".." in parts or folder.parts[-len(parts) :] != parts:
        return Path.cwd()
    return Path(*folder.parts[: -len(parts)])


def _check_same_files(output: Output, section: Mapping[str, Any], base: Path) -> None:
    manifest = read_manifest(output.folder)
    hint = "run this from the folder the job was run from, or run the job file: kxbatch run JOB.toml"
    if manifest is None:
        raise ConfigError(f"{output.folder.path}: its manifest is gone; run the job file: kxbatch run JOB.toml")
    known = {source.file.url for source in manifest.sources}
    try:
        found = discover(section["path"], base=base, format=section["format"], id_column=section["id"])
    except ConfigError as error:
        raise ConfigError(f"{error}; {hint}") from None
    lost = sorted(known - {file.url for file in found})
    standing = [url for url in lost if "://" in url or Path(url).exists()]  # files that are gone are the run's affair
    if standing or len(lost) == len(known):
        raise ConfigError(
            f"{output.folder.path}: {len(standing or lost)} of its input files are not among those that the job's paths "
            f"mean from {base} (for example {(standing or lost)[0]}); {hint}"
        )


def _check_stage(output: Output, stage: str | None) -> None:
    if stage is not None and stage not in output.stages:
        raise ConfigError(
            f"{output.folder.path}: no stage '{stage}'{nearest(stage, output.stages)} (has: {', '.join(output.stages)})"
        )
