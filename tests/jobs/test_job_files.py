"""Every job file that ships runs as it is, on a small corpus put where it looks for one; training jobs in a tiny size."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

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
TRAINING = ("train_gau", "experiments/no_warmup", "experiments/length")
DENSITY = (
    "density_images",
    "density_embeddings",
    "density_tabular",
    "density_diffusion",
)  # run in test_density_jobs.py
KGQA = ("kgqa_geonames", "kgqa_zh")  # test_kgqa_jobs
NER = ("ner_zh", "ner_nested", "experiments/ner_types")  # test_ner_jobs
DIFFUSION = ("ddpm_digits", "ddpm_emoji", "ddpm_vectors", "hub_sampling")  # test_diffusion_jobs
TINY = ("model.dim=8", "model.key_dim=4", "model.heads=2", "training.batch_rows=8", "training.precision=fp32")


def tiny(stage: dict[str, Any]) -> list[str]:
    """Overrides that shrink a training stage and keep what it is about."""
    name = stage.get("name", stage["kind"])
    if stage["kind"] == "tokenizer":
        return [f"{name}.vocabulary=300"]
    if stage["kind"] != "masked-lm":
        return []
    layers, steps = min(3, stage["model"]["layers"]), min(2, stage["training"].get("steps", 2))
    settings = [*TINY, f"model.layers={layers}", f"training.steps={steps}", "max_length=16"]
    if steps:
        settings += ["training.validation_share=0.2", "training.validate_every=1", "training.log_every=1"]
    if "evaluate_lengths" in stage:
        settings.append(f"evaluate_lengths={[length // 8 for length in stage['evaluate_lengths']]}")
    return [f"{name}.{setting}" for setting in settings]


def artifact(output: str, stage: str, document: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, stage, "_artifact", document).read_text())
    return found


def check_training(output: str, stage: dict[str, Any]) -> None:
    """A masked-lm stage left all that its part of the file asks for."""
    name, training = stage.get("name", stage["kind"]), stage["training"]
    assert Path(output, name, "_artifact", "model.safetensors").stat().st_size > 0
    curve = artifact(output, name, "training.json")
    assert (curve["status"], curve["step"]) == ("trained", min(2, training.get("steps", 2)))
    losses = [line["loss"] for line in curve["history"] if "loss" in line]
    validated = [line["validation_loss"] for line in curve["history"] if "validation_loss" in line]
    assert len(losses) == curve["step"]
    assert len(validated) == (curve["step"] if training.get("validation_share") else 0)
    assert all(math.isfinite(loss) for loss in losses + validated)
    if "evaluate_lengths" in stage:
        found = artifact(output, name, "evaluation.json")["lengths"]
        assert [line["length"] for line in found] == [length // 8 for length in stage["evaluate_lengths"]]
        assert all(line["predicted"] > 0 for line in found)
    if stage.get("init_report"):
        report = artifact(output, name, "init.json")
        assert report["one_step_change"] > 0
        branches = 2 if curve["architecture"]["block"] == "attention" else 1
        assert len(report["branch_ratio"]) == branches * report["layers"]


def test_every_job_file_is_run_by_a_test() -> None:
    found = {path.relative_to(JOBS).with_suffix("").as_posix() for path in JOBS.rglob("*.toml")}
    assert found == {*PREPARE, *TRAINING, *DENSITY, *KGQA, *NER, *DIFFUSION, "demo"}


@pytest.mark.parametrize("name", TRAINING)
def test_training_job_file_in_a_tiny_size(name: str, workplace: Path) -> None:
    stages = tomllib.loads((JOBS / f"{name}.toml").read_text())["stage"]
    write_texts(Path("data/texts.jsonl"), 0, 200)
    overrides = ["job.executor=inline", "input.path=data/texts.jsonl", "input.id=doc"]
    overrides += [setting for stage in stages for setting in tiny(stage)]
    result = kx.run(JOBS / f"{name}.toml", overrides=overrides, quiet=True, report=name == "train_gau")
    assert result.exit_code == 0, result.message
    for stage in stages:
        if stage["kind"] == "masked-lm":
            check_training(result.output, stage)


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
