"""Every job file that ships runs as it is, on a small corpus put where it looks for one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import write_texts

import kxbatch as kx
from kxbatch.data.vectors import to_arrow

JOBS = Path(__file__).parents[2] / "jobs"


def prepare_vectors_audit() -> None:
    Path("data/vectors").mkdir(parents=True)
    x = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    pq.write_table(pa.table({"embedding": to_arrow(x)}), "data/vectors/v.parquet")


def prepare_corpus_audit() -> None:
    for number in range(2):
        write_texts(Path(f"data/texts-{number}.jsonl"), number * 100, 100)


PREPARE = {"vectors_audit": prepare_vectors_audit, "corpus_audit": prepare_corpus_audit}


def test_every_job_file_is_run_by_a_test() -> None:
    assert {path.stem for path in JOBS.glob("*.toml")} == {*PREPARE, "demo"}


@pytest.mark.parametrize("name", sorted(PREPARE))
def test_job_file(name: str, workplace: Path) -> None:
    PREPARE[name]()
    result = kx.run(JOBS / f"{name}.toml", overrides=["job.executor=inline"], quiet=True)
    assert result.exit_code == 0, result.message
    assert Path(result.output, "report.html").stat().st_size > 10_000
    rows = kx.open(result.output).scan().collect().height
    assert rows == result.stages[0].rows_out > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_demo_on_a_small_corpus(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "kxbatch", "demo", "--rows", "200", "--executor", "inline", "-q"]
    first = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr[-2000:]
    lines = first.stdout.splitlines()
    assert [line.split(":")[0] for line in lines[-6:]] == [
        "rows",
        "skewness of N_k",
        "largest hub",
        "never found",
        "mean cosine",
        "report",
    ]
    assert lines[-6] == "rows: 200"
    assert Path(lines[-1].removeprefix("report: ")).exists()
    again = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True)
    assert again.returncode == 0
    assert "nothing to do" in again.stdout
    assert again.stdout.splitlines()[-6:] == lines[-6:]
