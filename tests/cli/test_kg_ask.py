"""`kxbatch kg ask`: facts with their scores, as a table or as JSON, and what cannot be asked."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from click.testing import CliRunner, Result
from retrieval_jobs import job, retriever, run, write_graph, write_questions

from kxbatch.cli import cli
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.graph import Graph

QUESTION = "what is the mayor of Alham?"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a graph and a model that has learned next to nothing."""
    folder = tmp_path_factory.mktemp("ask")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_graph()
        write_questions()
        run(job(retriever(training={"steps": 1})))
    return folder


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


def ask(*words: str, model: str = "out/kg/retriever/_artifact") -> Result:
    arguments = ["kg", "ask", "out/graph", *words, "--model", model]
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_answers_are_facts_with_the_way_to_them() -> None:
    told = json.loads(ask(QUESTION, "Bodorf's river?", "--answers", "7", "--json").stdout)
    assert [one["question"] for one in told] == [QUESTION, "Bodorf's river?"]
    facts = {row[:3]: row[3] for row in pl.read_parquet("triples.parquet").iter_rows()}
    for one in told:
        assert (len(one["answers"]), one["no_answer"]) == (7, None)
        assert one["best_score"] == max(answer["score"] for answer in one["answers"])
        for answer in one["answers"]:
            assert answer["objects"] == [facts[answer["subject"], answer["predicate"], answer["meaning"]]]
            assert sum(answer["part_scores"]) == pytest.approx(answer["score"], abs=1e-9)


def test_what_linking_finds_may_win() -> None:
    told = json.loads(ask(QUESTION, "--linked", "2", "--overlap", "50", "--json").stdout)
    best = told[0]["answers"][0]
    assert (best["subject"], best["predicate"]) == ("Alham", "mayor")
    assert best["normalized_score"] == pytest.approx(best["score"] + 50 * len("Alhammayor"))


def test_a_table_is_for_people_and_a_threshold_for_silence() -> None:
    table = ask(QUESTION, "--look-ahead", "none").stdout
    assert table.startswith(QUESTION)
    assert "log p" in table
    silent = ask(QUESTION, "--threshold", "-1e-9")
    assert "no answer: the best key has log p" in silent.stdout
    assert silent.exit_code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "Missing argument 'QUESTION...'"),
        (("\u3000",), "is blank"),
        ((QUESTION, "--threshold", "nan"), "give a number"),
        ((QUESTION, "--overlap", "nan"), "give a number"),
        ((QUESTION, "--answers", "17"), "1<=x<=16"),
    ],
)
def test_what_cannot_be_asked_is_refused(words: tuple[str, ...], message: str) -> None:
    done = ask(*words)
    assert (done.exit_code, message in done.output) == (2, True)


def test_what_is_not_there_or_too_long_is_said() -> None:
    with pytest.raises(DataError, match="a question of 2700 tokens; the model reads 128"):
        ask(QUESTION * 100)
    with pytest.raises(ConfigError, match="no model folder"):
        ask(QUESTION, model="nowhere")
    assert len(Graph.open(Path("out/graph"))) == 3 * 49
