"""Outputs with density stages, written as the engine writes them, from arrays that a test makes up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from kxbatch.data.storage import Folder
from kxbatch.report import build

LATENT = {"kl": [0.5, 3.0, 0.001, 1.25], "variance": [0.4, 0.9, 0.0001, 0.6], "active": 3}
CONVERGENCE = [{"samples": k, "mean": -80 - 8 / k, "stderr": 0.25} for k in (1, 10, 100, 500)]
COMPRESSION = {"rows": 180, "bits": 21000.0, "raw_bits": 47087.0, "zlib_bits": 30000.0, "zstd_bits": 29000.0}


def facts(**changes: Any) -> dict[str, Any]:
    """`density.json` of an importance-weighted estimate over 8 x 8 images of 17 levels."""
    known: dict[str, Any] = {
        "estimator": "iwae",
        "columns": ["image"],
        "dim": 64,
        "discrete": True,
        "likelihood": "discretised-logistic",
        "samples": 500,
        "score": "nll",
        "labels": None,
        "levels": 17,
        "shape": None,
        "calibration": {"rows": 180, "mean": -82.1, "standard_deviation": 14.2},
        "convergence": CONVERGENCE,
        "latent": LATENT,
        "compression": COMPRESSION,
    }
    return known | changes


def columns(n: int, seed: int = 0, outliers: int = 0, ids: Sequence[Any] | None = None) -> dict[str, Any]:
    """Columns of the parts for n rows; the last `outliers` are far lower than the rest, which `odd` tells."""
    rng = np.random.default_rng(seed)
    log_density = rng.normal(-82.0, 14.0, n)
    odd = np.arange(n) >= n - outliers
    log_density[odd] -= 60.0
    usual = np.sort(rng.normal(-82.0, 14.0, 180))
    return {
        "id": list(ids) if ids is not None else [f"row-{at:05d}" for at in range(n)],
        "log_density": log_density,
        "bits_per_dim": -log_density / (64 * np.log(2)),
        "density_stderr": rng.uniform(0.05, 0.4, n),
        "ess": rng.uniform(20.0, 300.0, n).astype(np.float32),
        "density_percentile": (100 * np.searchsorted(usual, log_density) / 180).astype(np.float32),
        "density_score": -log_density,
        "odd": odd,
    }


class Densities:
    """An output folder; `run` is its record."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run: dict[str, Any] = {"job": {"name": "odd rows", "stage": []}, "status": "done", "exit_code": 0}

    def stage(
        self, name: str, values: Mapping[str, Any] | None, known: dict[str, Any] | None = None, shards: int = 3
    ) -> None:
        """A stage with these rows in so many parts, and this `density.json`; None leaves the one or the other out."""
        self.run["job"]["stage"].append({"kind": "density", "name": name})
        artifact = self.folder / name / "_artifact"
        artifact.mkdir(parents=True)
        if known is not None:
            (artifact / "density.json").write_text(json.dumps(known), encoding="utf-8")
        if values is not None:
            table = pa.table(dict(values))
            cuts = np.linspace(0, len(table), shards + 1).astype(int)
            for number in range(shards):
                part = table.slice(cuts[number], cuts[number + 1] - cuts[number])
                pq.write_table(part, self.folder / name / f"part-{number:05d}.parquet", row_group_size=7)

    def html(self, texts: Callable[[Sequence[Any]], dict[Any, str]] | None = None) -> str:
        """The page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(self.run), encoding="utf-8")
        return Path(build(Folder(str(self.folder)), texts).path).read_text(encoding="utf-8")
