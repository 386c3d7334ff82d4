"""Evaluation of retrieval with generators that know their answers by heart: every measure can be worked out by hand."""

from __future__ import annotations

import json
import math
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from memo_generator import MemoGenerator, Row

from kxbatch.cli.kg import eval as cli
from kxbatch.engine.graph_answers import System
from kxbatch.engine.graph_evaluation import Grid, Result, best, calibrate, evaluate
from kxbatch.engine.graph_judging import OUTCOMES
from kxbatch.engine.graph_report import Calibration, Evaluation, write
from kxbatch.engine.questions import Questions
from kxbatch.errors import ConfigError
from kxbatch.models.graph.graph import Graph, Order
from kxbatch.models.retrieval.abstention import Curve
from kxbatch.report.graph_evaluation import build, render

FACTS = [
    ("Ur", "river", "", "Euphrates"),
    ("Ur", "people", "", "<b>65 000</b>"),
    ("Aba", "people", "Nigeria", "1 000 000"),
    ("Aba", "people", "Congo", "10 000"),
    ("Aba", "river", "Nigeria", "Aba River"),
    ("Aba", "river", "Nigeria", "Azumini"),
]
GOLD = [  # question, the key it asks for, its objects, what the model says, how sure it is
    ("which river is Ur on?", ("Ur", "river", ""), ["Euphrates"], ("Ur", "river", ""), 9.0),
    ("people of Ur?", ("Ur", "people", ""), ["<b>65 000</b>"], ("Aba", "people", "Congo"), 2.0),
    ("river of Aba?", ("Aba", "river", "Nigeria"), ["azumini", "aba  RIVER"], ("Aba", "river", "Nigeria"), 8.0),
    ("people of Aba in Congo?", ("Aba", "people", "Congo"), ["10 000"], ("Aba", "people", "Nigeria"), 5.0),
    ("river of Aba, again?", ("Aba", "river", "Nigeria"), ["Aba River"], ("Aba", "people", "Nigeria"), 3.0),
    ("Aba in Congo: people", ("Aba", "people", "Congo"), ["9 999"], ("Aba", "people", "Congo"), 7.0),
    ("who rules Ur?", ("Ur", "river", ""), ["Euphrates"], ("Ur", "ruler", ""), 6.0),
]


def asked(rows: list = GOLD) -> Questions:
    return Questions(
        [row[0] for row in rows],
        [row[1][0] for row in rows],
        [row[1][1] for row in rows],
        [row[1][2] for row in rows],
        [row[2] for row in rows],
    )


def system(order: Order = "spm", rows: list = GOLD) -> System:
    graph = Graph.of(FACTS, order=order)
    keys = graph.keys_of(*([row[3][part] for row in rows] for part in range(3)))
    questions, targets = graph.questions([row[0] for row in rows]), {}
    for i, row in enumerate(rows):
        source: Row = tuple(questions[i].tolist())
        targets[source] = ((*keys[i].tolist(), graph.tokenizer.separator), row[4])
    return System(order, graph, MemoGenerator(graph.tokenizer.vocabulary, targets), 30)


def run(grid: Grid, *systems: System, rows: list = GOLD, threshold: float | None = None) -> list[Result]:
    return evaluate(systems or (system(rows=rows),), asked(rows), grid, threshold)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return run(Grid(beams=(1, 3), answers=3), system("spm"), system("smp"))


def of(results: list[Result], kind: str, beam: int = 1, name: str = "spm") -> Result:
    settings = (r for r in results if r.method.kind == kind and r.system == name)
    return next(r for r in settings if kind == "linking" or r.method.settings.beam == beam)


def test_every_combination_is_tried_once(results: list[Result]) -> None:
    assert len({result.name for result in results}) == len(results) == 2 * (1 + 2 * 2 + 2)
    every = run(Grid((1, 2), ("none", "predicate", "predicate-meaning"), ("masked", "renormalised"), free=False))
    assert len(every) == 1 + 2 * 3 * 2
    more = run(Grid((1,), ("none",), free=False, linked=(0, 2), overlaps=(0.0, 0.5, 9.0)))
    assert len({result.name for result in more}) == len(more) == 1 + 2 * 3
    assert "beam 1, no look-ahead, renormalised, 2 linked, overlap 0.5" in more[5].name
    assert (more[5].to_json()["linked"], more[5].to_json()["overlap"]) == (2, 0.5)
    alone, ranked = more[1].judged, more[6].judged  # 9 nats a token are more than the model ever says
    assert not alone.parts["subject"].exact.all()
    assert ranked.parts["subject"].exact.all()


@pytest.mark.parametrize("name", ["spm", "smp"])
def test_measures_are_what_they_are_by_hand(results: list[Result], name: str) -> None:
    told = of(results, "search", 1, name).to_json()
    measures = told["measures"]
    outcomes = ["right", "wrong subject", "right", "wrong meaning", "wrong predicate", "wrong object"]
    rest = told["outcomes"]["right"] - 2
    assert rest in (
        0,
        1,
    )  # what it says to the last question is not in the graph; the trie leads to river or people of Ur
    assert {name: told["outcomes"][name] for name in set(outcomes[1:])} == {
        "right": 2 + rest,
        "wrong subject": 1,
        "wrong predicate": 2 - rest,
        "wrong meaning": 1,
        "wrong object": 1,
    }
    assert measures["subject"]["em"] == pytest.approx(6 / 7)
    assert measures["predicate"]["em"] == pytest.approx((5 + rest) / 7)
    assert measures["all"]["em"] == pytest.approx((2 + rest) / 7)
    assert told["hits"] == {"1": pytest.approx((2 + rest) / 7)}
    assert told["score"] == pytest.approx((measures["object"]["em"] + measures["object"]["f1"]) / 2)
    assert told["questions"] == 7


def test_free_decoding_says_what_it_wants_and_what_is_no_key_is_made_up(results: list[Result]) -> None:
    free = of(results, "free")
    told = free.to_json()
    assert told["outcomes"]["no key"] == 1
    assert told["outcomes"]["right"] == 2
    place = free.found.first(6)
    assert place is not None
    assert free.found.facts[place] is None
    assert free.found.invented[place] == "ur · ruler"
    assert [free.found.facts[p].predicate for p in (free.found.first(0), free.found.first(4))] == ["river", "people"]  # type: ignore[union-attr, index]


def test_a_wider_beam_finds_the_right_fact_behind_the_first(results: list[Result]) -> None:
    told = of(results, "search", 3).to_json()
    assert list(told["hits"]) == ["1", "3"]
    assert told["hits"]["3"] > told["hits"]["1"]
    ranks = of(results, "search", 3).judged.ranks
    assert ranks[0] == ranks[2] == 0
    assert ranks[5] == -1  # the object it asks for is not in the graph


def test_a_meaning_that_is_not_known_is_not_asked_for() -> None:
    questions = asked(GOLD[3:4])
    questions.meanings[0] = None
    questions.objects[0] = ["1 000 000"]
    (result,) = evaluate([system(rows=GOLD[3:4])], questions, Grid((1,), ("none",), free=False, linking=False))
    assert result.judged.right.tolist() == [True]


def test_questions_that_are_too_long_get_no_answer(results: list[Result]) -> None:
    short = System("short", system().graph, system().generator, 15)
    grid = Grid((1,), ("none",), free=True, linking=True)
    found = {result.method.kind: result for result in run(grid, short)}
    lengths = short.graph.questions(asked().texts).lengths
    for kind in ("search", "free"):
        nothing = found[kind].judged.outcomes == OUTCOMES.index("nothing")
        assert nothing.tolist() == (lengths > 15).tolist()
        assert np.isneginf(found[kind].judged.scores[nothing]).all()
    assert not (found["linking"].judged.outcomes == OUTCOMES.index("nothing")).any()


def test_batches_change_nothing() -> None:
    one, other = (of(run(Grid((3,), ("predicate",), batch=b)), "search", 3) for b in (1, 64))
    np.testing.assert_allclose(one.judged.scores, other.judged.scores, rtol=1e-6)
    assert one.judged.outcomes.tolist() == other.judged.outcomes.tolist()


def test_linking_needs_no_model() -> None:
    results = evaluate([System("alone", Graph.of(FACTS))], asked(), Grid())
    assert [result.method.kind for result in results] == ["linking"]
    assert best(results) is results[0]
    # beside the subject, the last question shares "o", "l" and "e" with people, and only "r" and "e" with river
    assert results[0].judged.right.tolist() == [True, True, True, True, True, False, False]
    assert results[0].to_json()["abstention"] is None


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(ConfigError, match="names that differ"):
        run(Grid(), system(), system())
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        evaluate([System("alone", Graph.of(FACTS))], asked(), Grid(linking=False))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from([-math.inf, -3.0, -2.5, -1.0, -0.5, 0.0]), st.booleans()), max_size=12))
def test_the_threshold_is_the_best_of_all(answers: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in answers])
    right = np.array([ok for _, ok in answers], dtype=bool)

    def f1(threshold: float) -> tuple[float, int]:
        kept = np.isfinite(scores) & (scores >= threshold)
        return 2 * (right & kept).sum() / max(kept.sum() + len(scores), 1), kept.sum()

    curve = Curve.of(scores, right)
    chosen = curve.best()
    assert (chosen.f1, chosen.answered) == pytest.approx(
        max(f1(t) for t in [-9.0, *scores[np.isfinite(scores)].tolist()])
    )
    assert f1(-9.0 if chosen.threshold is None else chosen.threshold) == pytest.approx((chosen.f1, chosen.answered))
    for threshold in (None, -9.0, -2.5, -0.7, 1.0):
        assert (curve.at(threshold).f1, curve.at(threshold).answered) == pytest.approx(
            f1(-9.0 if threshold is None else threshold)
        )


def test_a_calibrated_threshold_is_what_it_says_it_is() -> None:
    results = run(Grid((1, 2), ("none",), free=False, linking=False))
    thresholds = calibrate(results)
    again = evaluate([system()], asked(), Grid((1, 2), ("none",)), thresholds)
    for result in again:
        if result.method.kind == "search":
            assert result.abstention == thresholds[result.system, result.method]
        else:
            assert result.abstention is None
    calibration = Calibration.of("dev.parquet", thresholds)
    told = tomllib.loads(calibration.toml)
    assert told["beam"] == calibration.method.settings.beam
    assert told["threshold"] == calibration.chosen.threshold
    assert calibration.chosen.f1 == max(one.f1 for one in thresholds.values())


class Page(HTMLParser):
    """Tags, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_page_loads_nothing_shows_every_way_and_escapes(results: list[Result], tmp_path: Path) -> None:
    systems = [system("spm"), system("smp")]
    told = run(Grid((1,), ("none",), free=True), *systems, threshold=-1.0)
    evaluation = Evaluation("out/<i>test.parquet", asked(), systems, told)
    text = build(evaluation, tmp_path).read_text(encoding="utf-8")
    page = Page(text)
    assert not [tag for tag, attributes in page.tags if "src" in attributes or tag in ("script", "link")]
    assert "http" not in text.replace("http-equiv", "")
    for result in told:
        assert result.name in page.words
    assert "<i>test.parquet" in page.words
    assert "<b>65 000</b>" in page.words
    assert "Wrong subject" in page.words
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {str(attributes["href"])[1:] for tag, attributes in page.tags if tag == "a"}
    assert anchors == {"answers", "figures", "threshold", "errors"} <= set(ids)
    assert render(evaluation) == text


def test_a_page_without_errors_model_or_threshold(tmp_path: Path) -> None:
    questions = asked(GOLD[:1])
    alone = [System("alone", Graph.of(FACTS))]
    text = render(Evaluation("q.csv", questions, alone, evaluate(alone, questions, Grid())))
    assert "every question got the right fact" in text
    assert 'id="threshold"' not in text


def test_the_record_is_json_and_has_examples(results: list[Result], tmp_path: Path) -> None:
    systems = [system("spm"), system("smp")]
    told = json.loads(write(Evaluation("q.csv", asked(), systems, results), tmp_path / "new").read_text())
    assert [row["name"] for row in told["results"]] == [result.name for result in results]
    assert told["errors"]["wrong subject"] == [
        {
            "question": "people of Ur?",
            "gold": "Ur · people → <b>65 000</b>",
            "answer": "Aba（Congo） · people → 10 000",
            "score": told["errors"]["wrong subject"][0]["score"],
        }
    ]
    curve = next(row["curve"] for row in told["results"] if row["method"] == "search")
    assert curve[-1]["coverage"] == 1.0
    assert sorted((point["score"] for point in curve), reverse=True) == [point["score"] for point in curve]


def test_the_command_line_pairs_graphs_and_models_and_calibrates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [(row[0], *row[1], row[2]) for row in GOLD]
    table = pl.DataFrame(rows, schema=["question", "subject", "predicate", "meaning", "object"], orient="row")
    other = table.with_columns(split=pl.lit("b"), object=pl.lit([], pl.List(pl.String)))
    pl.concat([table.with_columns(split=pl.lit("a")), other]).write_parquet(tmp_path / "q.parquet")
    table.write_ndjson(tmp_path / "dev.jsonl")
    pairs: list[tuple[Path, Path]] = []

    def opened(graphs: list[Path], models: list[Path], *rest: str) -> list[System]:
        pairs.extend(zip(graphs, models, strict=True))
        return [system("spm"), system("smp")]

    monkeypatch.setattr(cli, "_systems", opened)
    path = str(tmp_path / "q.parquet")
    arguments = [path, "--graph", "g1", "--model", "m1", "--graph", "g2", "--model", "m2", "--beam", "1,2,1"]
    arguments += [
        "--look-ahead",
        "none",
        "--split",
        "a",
        "--calibrate",
        str(tmp_path / "dev.jsonl"),
        "--output",
        str(tmp_path / "out"),
    ]
    done = CliRunner().invoke(cli.command, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert pairs == [(Path("g1"), Path("m1")), (Path("g2"), Path("m2"))]
    assert "threshold = " in done.stdout
    told = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {row["beam"] for row in told["results"]} == {None, 1, 2}
    assert "threshold" in tomllib.loads(told["calibration"]["toml"])
    assert (tmp_path / "out" / "evaluation.html").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--graph", "g", "--model", "m", "--model", "n"], "1 graphs and 2 models"),
        (["--graph", "g", "--beam", "0"], "whole numbers"),
        (["--graph", "g", "--linked", "-1"], "whole numbers of 0 or more"),
        (["--graph", "g", "--overlap", "1,x"], "numbers of 0 or more"),
        (["--graph", "g", "--overlap", "inf"], "numbers of 0 or more"),
        (["--graph", "g", "--look-ahead", "predicat"], "did you mean 'predicate'"),
        (["--graph", "g", "--calibrate", "dev.csv"], "give --model"),
        (["--graph", "g", "--model", "m", "--calibrate", "dev.csv", "--threshold", "-1"], "leave --threshold out"),
        (["--graph", "g", "--model", "m", "--calibrate", "q.csv"], "calibrate on others"),
        (["--graph", "g", "--model", "m", "--threshold", "nan"], "give a number"),
    ],
)
def test_the_command_line_refuses_what_makes_no_sense(arguments: list[str], words: str) -> None:
    done = CliRunner().invoke(cli.command, ["q.csv", *arguments])
    assert done.exit_code == 2
    assert words in done.output
