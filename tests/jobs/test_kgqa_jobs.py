"""The two jobs on questions, from their collectors' files to answers, on small graphs and for a few steps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner
from retrieval_jobs import write_questions, write_triples

import kxbatch as kx
from kxbatch.cli import cli

JOBS = Path(__file__).parents[2] / "jobs"
SMALL = [
    "job.executor=inline",
    "retriever.training.steps=3",
    "retriever.training.validate_every=2",
    "retriever.training.validation_share=0.1",
    "retriever.model.dim=32",
    "retriever.model.key_dim=16",
    "retrieve.beam=3",
]
pytestmark = pytest.mark.usefixtures("workplace")


def build(folder: str, *more: str) -> None:
    """As the head of the job file says."""
    arguments = ["kg", "build", f"{folder}/triples.parquet", "--output", f"{folder}/graph", *more]
    result = CliRunner().invoke(cli, [*arguments, "--columns", "subject,predicate,object,meaning"])
    assert result.exit_code == 0, result.output


def answered(name: str) -> pl.DataFrame:
    result = kx.run(JOBS / f"{name}.toml", overrides=SMALL, quiet=True)
    assert result.exit_code == 0, result.message
    assert 'id="retrieval"' in Path(result.output, "report.html").read_text()
    return pl.read_parquet(f"{result.output}/retrieve/part-*.parquet")


def facts(folder: str) -> set[tuple[str, ...]]:
    return set(pl.read_parquet(f"{folder}/triples.parquet").select("subject", "predicate", "meaning").rows())


def all_are_facts(found: pl.DataFrame, folder: str) -> bool:
    known = facts(folder)
    firsts = [answers[0] for answers in found["answers"].to_list()]
    return {(one["subject"], one["predicate"], one["meaning"]) for one in firsts} <= known


def test_geonames() -> None:
    Path("out/geonames").mkdir(parents=True)
    write_triples("out/geonames/triples.parquet")
    asked = write_questions("out/geonames/questions.parquet")
    asked = asked.with_columns(object=pl.lit([], pl.List(pl.String)), template=pl.lit("t 0"), split=pl.lit("train"))
    asked.write_parquet("out/geonames/questions.parquet")
    build("out/geonames", "--pieces", "300")
    found = answered("kgqa_geonames")
    assert len(found) == len(asked)
    assert all_are_facts(found, "out/geonames")


def test_chinese() -> None:
    rows = [
        (f"{s}的{p}是什么？", s, p, f"{s}之{p}") for s in ("红楼梦", "水浒传", "西游记") for p in "甲乙丙丁戊己庚辛壬癸"
    ]
    frame = pl.DataFrame(rows, schema=["question", "subject", "predicate", "object"], orient="row")
    frame.write_parquet("asked.parquet")
    command = [sys.executable, str(JOBS / "collect_kgqa_zh.py"), "--questions", "asked.parquet"]
    subprocess.run([*command, "--output", "out/kgqa-zh-data"], check=True, stdout=subprocess.DEVNULL)
    build("out/kgqa-zh-data")
    found = answered("kgqa_zh")
    made = pl.read_parquet("out/kgqa-zh-data/questions.parquet")
    assert len(found) == len(made)
    assert made.filter(~pl.col("asked"))["split"].unique().to_list() == ["train"]
    assert len(made.filter(~pl.col("asked"))) == 5 * len(made.filter("asked", split="train"))
    answers, silent = found.filter(pl.col("no_answer").is_null()), found.filter(no_answer="not-asked")
    assert len(answers) == len(rows)
    assert len(silent) == len(made) - len(rows)
    assert all_are_facts(answers, "out/kgqa-zh-data")
