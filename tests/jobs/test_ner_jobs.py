"""The jobs on names, as they are but for their sizes, on a small corpus where they look for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from extraction_jobs import sentences, write_sentences
from safetensors.numpy import load_file

import kxbatch as kx
from kxbatch.cli import cli
from kxbatch.models.extraction.globalpointer import HeadKind, parameter_count

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = [
    "job.executor=inline",
    "tokenizer.vocabulary=300",
    "ner.training.epochs=1",
    "ner.model.dim=16",
    "ner.model.layers=1",
]
pytestmark = pytest.mark.usefixtures("workplace")


@pytest.mark.parametrize(("name", "data"), [("ner_zh", "msra"), ("ner_nested", "nested")])
def test_a_job_runs_with_either_head_and_is_evaluated(name: str, data: str) -> None:
    Path("out/ner-data").mkdir(parents=True)
    texts = sentences(120)
    parts = ["test" if n % 4 == 0 else "train" for n in range(len(texts))]
    train = [part == "train" for part in parts]
    write_sentences(f"out/ner-data/{data}.parquet", texts, split=parts, train=train)
    outputs = []
    for head in ("efficient-globalpointer", "crf"):
        output = f"out/{head}"
        changed = [*SMALL, f"ner.head={head}", f"job.output={output}"]
        result = kx.run(JOBS / f"{name}.toml", overrides=changed, quiet=True)
        assert result.exit_code == 0, result.message
        assert 'id="extraction"' in Path(output, "report.html").read_text()
        outputs.append(f"{output}/extract")
    found = pl.read_parquet(f"{outputs[0]}/part-*.parquet")
    assert sorted(found["text"]) == sorted(texts)
    told = CliRunner().invoke(cli, ["extract", "eval", *outputs, "--split", "test", "--output", "out/eval"])
    assert told.exit_code == 0, told.output
    assert "30 texts" in told.output
    assert Path("out/eval/evaluation.html").is_file()


def test_heads_of_the_experiment_have_the_parameters_of_their_formulas() -> None:
    texts = sentences(100)
    parts = ["test" if n % 5 == 0 else "train" for n in range(len(texts))]
    write_sentences("corpus.parquet", texts, split=parts, train=[part == "train" for part in parts])
    made = ["--corpus", "corpus.parquet", "--types", "6", "--output", "out/ner-data/types-10.parquet"]
    subprocess.run([sys.executable, str(JOBS / "collect_types.py"), *made], check=True)
    changed = ["tokenizer.vocabulary=300"]
    for stage in ("egp", "gp"):
        changed += [f"{stage}.model.dim=16", f"{stage}.model.layers=1", f"{stage}.training.steps=2"]
    result = kx.run(JOBS / "experiments/ner_types.toml", overrides=changed, quiet=True, report=False)
    assert result.exit_code == 0, result.message
    heads: dict[str, HeadKind] = {"egp": "efficient-globalpointer", "gp": "globalpointer"}
    for stage, kind in heads.items():
        weights = load_file(Path(result.output, stage, "_artifact", "model.safetensors"))
        counted = sum(x.size for name, x in weights.items() if name.startswith("head."))
        assert counted == parameter_count(kind, dim=16, types=6, head_size=64)
    found = [f"{result.output}/{stage}-found" for stage in heads]
    told = CliRunner().invoke(cli, ["extract", "eval", *found, "--split", "test"])
    assert told.exit_code == 0, told.output
    assert "20 texts" in told.output
