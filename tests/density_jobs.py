"""Rows and jobs that tests of the `vae` and `density` stages share: tiny models, a few steps, rows that know their own values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

import kxbatch as kx
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.result import RunResult

WIDTH = 3
MIX = np.array([[2.0, 0.5, 0.0], [0.0, 1.0, -0.7], [0.0, 0.0, 0.4]])


def vector(number: int, shift: float = 0.0) -> npt.NDArray[np.float64]:
    """The values of row `number`: wherever it lies, whatever lies beside it. Every 25th is odd: far from all others."""
    found: npt.NDArray[np.float64] = np.random.default_rng(number).standard_normal(WIDTH) @ MIX + 5 + shift
    return found + 30 * (number % 25 == 24)


def table_of(numbers: Any, shift: float = 0.0) -> pa.Table:
    """Rows by number: id, vector, a number, and who is odd."""
    numbers = list(numbers)
    vectors = np.array([vector(n, shift) for n in numbers]).reshape(-1, WIDTH).astype(np.float32)
    odd = [n % 25 == 24 for n in numbers]
    return pa.table(
        {
            "id": [f"r{n:05d}" for n in numbers],
            "v": to_arrow(vectors),
            "a": vectors[:, 0].astype(np.float64) * 10,
            "odd": odd,
            "normal": [not o for o in odd],
        }
    )


def write(numbers: Any, name: str = "a", *, shift: float = 0.0, table: pa.Table | None = None) -> None:
    """A file of the corpus."""
    Path("rows").mkdir(exist_ok=True)
    pq.write_table(table if table is not None else table_of(numbers, shift), f"rows/{name}.parquet", row_group_size=50)


def job(*stages: dict[str, Any], output: str = "out/d", executor: str = "inline") -> dict[str, Any]:
    """A job over `rows/*.parquet`, in shards of 50 rows or so."""
    lenient = {"max_rows": 100, "max_share": 1.0}
    return {
        "job": {"name": "d", "output": output, "executor": executor, "quarantine": lenient},
        "input": {"path": "rows/*.parquet", "id": "id", "shard_size": "1kB"},
        "stage": list(stages),
    }


def vae(**changes: Any) -> dict[str, Any]:
    """A tiny model of `v`."""
    training = {"steps": 8, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32", "log_every": 1}
    training |= changes.pop("training", {})
    return {"kind": "vae", "columns": "v", "latent": 2, "hidden": [8], "training": training} | changes


def iwae(**changes: Any) -> dict[str, Any]:
    """Densities by that model."""
    return {"kind": "density", "columns": "v", "model": "stage:vae", "samples": 12, "calibration_share": 0.2} | changes


def gaussian(**changes: Any) -> dict[str, Any]:
    """Densities by the normal distribution: nothing is trained."""
    return {"kind": "density", "columns": "v", "estimator": "gaussian", "calibration_share": 0.2} | changes


def run(of: dict[str, Any], **kwargs: Any) -> RunResult:
    """Run it, and let no row be lost."""
    result = kx.run(of, quiet=True, report=False, **kwargs)
    for stage in result.stages:
        if not stage.failed:
            assert stage.rows_in == stage.rows_out + stage.rows_quarantined, "a row was lost"
    return result


def done(of: dict[str, Any], **kwargs: Any) -> RunResult:
    """Run it to its good end."""
    result = run(of, **kwargs)
    assert result.exit_code == 0, result.message + str(result.failures)
    return result


def parts(stage: str = "density", output: str = "out/d") -> pl.DataFrame:
    """All rows of a stage, by id."""
    return pl.concat([pl.read_parquet(p) for p in sorted(Path(output, stage).glob("part-*.parquet"))]).sort("id")


def facts(stage: str = "density", output: str = "out/d") -> dict[str, Any]:
    """`density.json`."""
    found: dict[str, Any] = json.loads(Path(output, stage, "_artifact/density.json").read_text())
    return found


def calibration(stage: str = "density", output: str = "out/d") -> npt.NDArray[np.float64]:
    """The sorted densities that percentiles are taken from."""
    found: npt.NDArray[np.float64] = load_file(Path(output, stage, "_artifact/calibration.safetensors"))["log_density"]
    return found


def held(ids: list[str], share: float = 0.2) -> npt.NDArray[np.bool_]:
    """Which rows calibrate."""
    return held_out(row_keys(ids), share)


def fresh(result: RunResult) -> dict[str, list[str]]:
    """Stage -> units that this run did."""
    return {s.name: [u["key"] for u in s.units if not u["reused"]] for s in result.stages}


def stamps(*folders: str) -> dict[Path, int]:
    """When each file of the folders was written."""
    return {p: p.stat().st_mtime_ns for f in folders for p in sorted(Path(f).rglob("*")) if p.is_file()}
