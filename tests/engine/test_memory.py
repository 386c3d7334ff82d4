"""A corpus of ten times the memory allowed goes through embed and whiten, and peak memory does not follow the corpus."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).with_name("memory_script.py")
DIM, SHARD_ROWS = 256, 2048
SHARD = SHARD_ROWS * DIM * 4
ROOM = 10 * SHARD  # beyond what is there before the first shard is read: modules and caches
# Arrow's other pools reserve a gigabyte of address space ahead, and malloc keeps what was freed: the limit would count both.
ALLOCATION = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_ARENA_MAX": "1"}
ENCODER = f"""
import numpy as np

TABLE = np.random.default_rng(0).standard_normal((1021, {DIM})).astype(np.float32)


def embed(texts):
    return TABLE[[int(text) % 1021 if text.isdigit() else 0 for text in texts]]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("memory")
    (made / "table_encoder.py").write_text(ENCODER)
    return made


def write_job(folder: Path, name: str, rows: int, shard_rows: int = SHARD_ROWS) -> str:
    """A corpus of short texts, a row group a shard, and its job."""
    data = folder / f"{name}.parquet"
    pq.write_table(pa.table({"text": [str(row) for row in range(rows)]}), data, row_group_size=shard_rows)
    job = folder / f"{name}.toml"
    job.write_text(
        f'[job]\nname = "{name}"\noutput = "out/{name}"\nexecutor = "inline"\n'
        f'[input]\npath = "{data.name}"\nshard_size = 1\n'
        '[[stage]]\nkind = "embed"\nmodel = "callable:table_encoder:embed"\nresources = {attempts = 1}\n'
        '[[stage]]\nkind = "whiten"\n'
    )
    return job.name


def run_limited(folder: Path, *jobs: str) -> list[dict[str, Any]]:
    """Run jobs one after the other in one process, which may take `ROOM` bytes more than it held after a job of two shards."""
    small = write_job(folder, f"small-{jobs[0].removesuffix('.toml')}", 2 * SHARD_ROWS)
    command = [sys.executable, str(SCRIPT), str(ROOM), small, *jobs]
    done = subprocess.run(command, cwd=folder, env=os.environ | ALLOCATION, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_peak_memory_does_not_follow_the_corpus(folder: Path) -> None:
    rows = {times: times * ROOM // (4 * DIM) for times in (1, 3, 10)}
    found = run_limited(folder, *(write_job(folder, f"times{times}", count) for times, count in rows.items()))
    for facts, count in zip(found, rows.values(), strict=True):
        assert facts["exit_code"] == 0, facts["failures"]
        assert facts["rows"] == {"embed": count, "whiten": count}
    peaks = [facts["peak"] for facts in found]
    assert peaks[-1] < ROOM, peaks  # resident, so mapped files count too; vectors of 10 x ROOM went through each stage
    # What may grow: receipts, and the logarithmic number of states that are merged. The vectors grew by 9 x ROOM.
    assert peaks[-1] - peaks[0] < ROOM / 2, peaks


@pytest.mark.slow
def test_the_limit_bites_and_names_memory(folder: Path) -> None:
    """The same rows as one shard do not fit; that is said, and nothing is published."""
    rows = 10 * ROOM // (4 * DIM)
    [facts] = run_limited(folder, write_job(folder, "whole", rows, shard_rows=rows))
    assert facts["exit_code"] == 3
    assert "mem" in facts["failures"][0].lower() or "malloc" in facts["failures"][0]
    assert "corrupt" not in facts["failures"][0]
    assert not list((folder / "out/whole").glob("*/part-*"))
