"""Trainings on the report page: its numbers are those of the files, and nothing about how a training ended is kept quiet."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxbatch.api import build_report
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report import build
from kxbatch.report import training_figures as figures
from kxbatch.report.strokes import STAGES
from kxbatch.report.training import Facts, Line, Training, differing

HOSTILE = "<script>alert('x')</script>\"><img src=x>{{7*7}}"
DIVERGED = 70  # the step of it, in stages that do


def history(steps: int = 100, every: int = 5, slope: float = 0.02, pace: float = 2.0) -> list[dict[str, Any]]:
    """Lines as the loop writes them: a loss that falls, and a validation at every tenth line."""
    lines: list[dict[str, Any]] = []
    for step in range(every, steps + 1, every):
        loss = 4.0 * math.exp(-slope * (step - every)) + 0.01 * math.sin(step)
        facts = {"rate": 1e-3 * (1 - step / steps), "gradient_norm": 1 + math.cos(step) / 2, "padding_share": 0.125}
        speed = {"steps_per_second": pace, "tokens_per_second": 64 * pace}
        lines.append({"step": step, "epoch": step / 50, "loss": loss, **facts, **speed})
        if step % (10 * every) == 0:
            lines.append({"step": step, "validation_loss": loss + 0.0625, "validation_accuracy": 0.5 - loss / 16})
    return lines


class Outputs:
    """An output with training stages, written as the engine writes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run: dict[str, Any] = {"job": {"name": "experiment", "stage": []}, "status": "done", "exit_code": 0}

    def stage(self, name: str, lines: list[dict[str, Any]], status: str = "trained", **model: Any) -> dict[str, Any]:
        """A stage; a status of "" is that of a training that is not finished."""
        model = {"dim": 16, "layers": 2, "block": "gau", **model}
        spec = {
            "kind": "masked-lm",
            "name": name,
            "input": None,
            "model": model,
            "training": {"optimizer": {"rate": 0.5}},
        }
        self.run["job"]["stage"].append(spec)
        self.write(name, "_training/history.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        last = max(line["step"] for line in lines)
        facts = {
            "step": last,
            "seconds": 50.0,
            "best": None,
            "best_step": None,
            "worse": 0,
            "rows": 800,
            "tokens": 6400,
        }
        facts |= {
            "status": status,
            "steps": last,
            "world": 2,
            "history": lines,
            "architecture": {**model, "vocabulary": 99},
        }
        if status:
            self.write(name, "_artifact/training.json", json.dumps(facts))
        return facts

    def write(self, stage: str, file: str, text: str) -> None:
        path = self.folder / stage / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def page(self) -> Page:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps(self.run), encoding="utf-8")
        return Page(Path(build(Folder(str(self.folder))).path).read_text(encoding="utf-8"))


class Page(HTMLParser):
    """What the tests ask of a page: the values and words of each table row, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.words = html, ""
        self.values: list[float] = []
        self.rows: list[tuple[str, list[float]]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self._start, self._first = len(self.words), len(self.values)
        if tag == "data":
            self.values.append(float(dict(attrs)["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append((" ".join(self.words[self._start :].split()), self.values[self._first :]))

    def handle_data(self, data: str) -> None:
        self.words += data

    def row(self, start: str) -> tuple[str, list[float]]:
        """The only row that begins so."""
        (found,) = [row for row in self.rows if row[0].startswith(start)]
        return found

    @property
    def figures(self) -> list[str]:
        return re.findall(r"<figure>.*?</figure>", self.html, flags=re.DOTALL)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def titled(page: Page, title: str) -> list[str]:
    return [figure for figure in page.figures if f"<h3>{title}</h3>" in figure]


def test_the_numbers_of_one_training_are_those_of_its_file(outputs: Outputs) -> None:
    lines = history()
    outputs.stage("encoder", lines)
    page = outputs.page()
    best = min((line for line in lines if "validation_loss" in line), key=lambda line: line["validation_loss"])
    tiles = [best["validation_loss"], best["validation_accuracy"]]
    final = next(line["loss"] for line in reversed(lines) if "loss" in line)
    wanted = [*tiles, 100, 100, final, tiles[0], best["step"], tiles[1], 50.0, 6400 / 50.0, 2]
    assert page.values[: len(wanted)] == wanted
    for title in ("Loss", "Learning rate", "Norm of the gradient", "Tokens a second"):
        assert len(titled(page, title)) == 1
    assert "Stages compared" not in page.words


def test_a_comparison_has_every_stage_told_apart_by_more_than_colour(outputs: Outputs) -> None:
    files = {
        f"stage-{at}": outputs.stage(f"stage-{at}", history(slope=0.01 + at / 500), layers=1 + at) for at in range(9)
    }
    page = outputs.page()
    groups = re.findall(r'<div class="comparison">.*?</ul>', page.html, flags=re.DOTALL)
    assert [len(re.findall("<li>", group)) for group in groups] == [8, 1]
    assert [name for group in groups for name in re.findall(r"<b>(.*?)</b>", group)] == list(files)
    for group in groups:
        drawn = re.findall(r"<svg.*?</svg>", group)
        plain = [re.sub(r"var\(--\w+\)", "", sample) for sample in drawn]
        assert len(set(plain)) == len(plain)
    used = [set(re.findall(r"var\(--(\w+)\)", figure)) for figure in titled(page, "Loss by step")]
    names = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    assert [used[0] & set(names), used[1] & set(names)] == [set(names), {"one"}]
    for at, (name, facts) in enumerate(files.items()):
        words, values = page.row(f"{name} trained")
        losses = [line["loss"] for line in facts["history"] if "loss" in line]
        assert values[:2] == [losses[-1], pytest.approx(np.mean(losses[-2:]) / losses[0])]
        assert re.search(rf"trained {1 + at} ", words)


def test_a_diverged_and_a_stalled_stage_are_told(outputs: Outputs) -> None:
    broken = [line for line in history() if line["step"] < DIVERGED] + [{"step": DIVERGED, "diverged": True}]
    outputs.stage("hot", broken, "diverged")
    outputs.stage("cold", history(slope=0.0))
    outputs.stage("fine", history())
    outputs.stage("early", history(), "stopped early")
    page = outputs.page()
    assert page.row(f"hot diverged at step {DIVERGED}")
    assert page.row("cold trained, stalled")
    assert "stalled" not in page.row("fine trained")[0]
    assert page.row("early stopped early at step 100")
    assert "mean loss over the last tenth of the steps is 98 % or more of the first line's" in page.words
    (compared,) = titled(page, "Loss by step")
    assert "A cross ends a stage that diverged" in compared


@pytest.mark.parametrize("record", [True, False])
def test_a_training_that_is_not_finished_has_its_curve(outputs: Outputs, record: bool) -> None:
    outputs.stage("encoder", history()[:7], "")
    page = outputs.page()
    if not record:
        (outputs.folder / "run.json").unlink()
        phases = [{"stage": "encoder", "phase": phase, "units": 1, "done": 1} for phase in ("survey", "train")]
        (outputs.folder / "progress.json").write_text(json.dumps({"run": "r", "status": "running", "phases": phases}))
        page = Page(Path(build_report(outputs.folder)).read_text(encoding="utf-8"))
        assert "has not ended: status running" in page.words
    assert "not finished, at step 35" in page.words
    assert len(titled(page, "Loss")) == 1
    assert history()[6]["loss"] in page.values


def test_a_new_training_is_not_told_with_the_numbers_of_the_old_one(outputs: Outputs) -> None:
    outputs.stage("encoder", history())
    (outputs.folder / "encoder/_training/history.jsonl").write_text(json.dumps(history(slope=0.5)[0]) + "\n")
    assert "not finished, at step 5" in outputs.page().words


def test_settings_that_differ_are_the_columns(outputs: Outputs) -> None:
    outputs.stage("a", history(), norm="post", dropout=0.0)
    outputs.stage("b", history(), norm="pre", dropout=0.0)
    outputs.run["job"]["stage"][1]["training"]["optimizer"]["rate"] = 0.25
    page = outputs.page()
    header = next(words for words, _ in page.rows if words.startswith("stage"))
    assert re.match(r"stage ?status ?norm ?training\.optimizer\.rate ?final loss", header)
    assert re.match(r"a ?trained ?post ?0\.5", page.row("a")[0])
    assert re.match(r"b ?trained ?pre ?0\.25", page.row("b")[0])


def test_accuracy_by_length_and_fresh_weights(outputs: Outputs) -> None:
    scores = [
        {
            "length": length,
            "sequences": 3,
            "predicted": 40 + length,
            "accuracy": 1 / length,
            "cross_entropy": length / 4,
        }
        for length in (8, 16, 512)
    ]
    for name, lengths in (("a", scores), ("b", [*scores[:2], {**scores[2], "accuracy": None, "cross_entropy": None}])):
        outputs.stage(name, history())
        document = {"mask_share": 0.15, "trained_at": 16, "lengths": lengths}
        outputs.write(name, "_artifact/evaluation.json", json.dumps(document))
    start = {"layers": 2, "branch_ratio": [0.25, 0.375], "step": 1e-3, "one_step_change": 0.625}
    outputs.write("a", "_artifact/init.json", json.dumps(start))
    page = outputs.page()
    assert len(titled(page, "Guessed right, by length")) == 1
    values = [values for words, values in page.rows if "nats" in words]
    table = [16.0, *(value for one in scores for value in (one["accuracy"], one["cross_entropy"], one["predicted"]))]
    assert values == [table, [*table[:7], 552]]
    assert [values for _, values in page.rows if values == [2, 0.625, 0.25, 0.375]]


def test_hostile_words_are_shown_and_never_act(outputs: Outputs) -> None:
    name = HOSTILE.replace("/", "|")
    for at in range(2):
        outputs.stage(f"{name}{at}", history(), HOSTILE, block=f"{HOSTILE}{at}", **{f"{HOSTILE}": at})
    page = outputs.page()
    assert not {"script", "img"} & page.tags
    assert page.words.count(HOSTILE) >= 6


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("_artifact/training.json", "{", r"training\.json: the file: Invalid JSON"),
        ("_artifact/training.json", '{"step": "x", "status": "trained"}', r"training\.json: step: "),
        ("_artifact/evaluation.json", '{"lengths": [{}]}', r"evaluation\.json: lengths\.0\.length: "),
        ("_artifact/init.json", '{"branch_ratio": "many"}', r"init\.json: branch_ratio: "),
        ("_training/history.jsonl", '{"step": 1}\n{"step', r"history\.jsonl: line 2: the file: Invalid JSON"),
    ],
)
def test_a_damaged_file_is_named(outputs: Outputs, file: str, text: str, words: str) -> None:
    outputs.stage("encoder", history())
    outputs.write("encoder", file, text)
    with pytest.raises(DataError, match=words):
        outputs.page()


def test_a_history_of_one_line_or_none_has_a_page(outputs: Outputs) -> None:
    outputs.stage("one", history(5, 5))
    outputs.stage("odd", [{"step": 3}, {"step": 9, "loss": 2.0, "gradient_norm": 0.0, "steps_per_second": 0.0}])
    page = outputs.page()
    assert "nan" not in page.words.lower()
    assert page.row("odd trained")[1] == [2.0, 50.0, 128.0]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3000), st.integers(10, 700))
def test_thinning_keeps_the_ends_and_the_extremes(values: list[float], most: int) -> None:
    y = np.asarray(values)
    places = figures.thinned(y, most)
    assert len(places) <= max(most, 1)
    assert (places[0], places[-1]) == (0, len(y) - 1)
    assert np.all(np.diff(places) > 0)
    assert (y[places].min(), y[places].max()) == (y.min(), y.max())
    if len(y) <= most:
        assert len(places) == len(y)


@given(st.integers(1, 400), st.floats(-5, 5), st.floats(-5, 5))
def test_a_straight_line_is_smoothed_to_itself_but_for_its_end(count: int, slope: float, height: float) -> None:
    y = slope * np.arange(count, dtype=np.float64) + height
    reach = count // 40
    np.testing.assert_allclose(figures.smoothed(y)[: count - reach], y[: count - reach], atol=1e-6)
    assert figures.smoothed(y)[-1] == pytest.approx(y[count - 1 - reach :].mean(), abs=1e-6)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.01, 100)), min_size=1, max_size=50))
def test_elapsed_seconds_are_the_steps_at_their_pace(parts: list[tuple[int, float]]) -> None:
    steps = np.cumsum([count for count, _ in parts])
    lines = [Line(step=int(at), loss=1.0, steps_per_second=pace) for at, (_, pace) in zip(steps, parts, strict=True)]
    training = Training("t", tuple(lines))
    assert training.elapsed is not None
    assert training.elapsed[1][-1] == pytest.approx(sum(count / pace for count, pace in parts))
    assert training.seconds == pytest.approx(training.elapsed[1][-1])


def test_strokes_differ_without_colour() -> None:
    assert len({(stroke.dash, stroke.marker) for stroke in STAGES}) == len({stroke.color for stroke in STAGES}) == 8


def test_a_setting_that_only_one_stage_knows_makes_no_column() -> None:
    facts = Facts(step=1, status="trained")
    one = Training("a", (), facts, {"dim": 1, "heads": 2})
    assert differing([one, Training("b", (), facts, {"dim": 1})]) == []
    assert differing([one, Training("b", (), facts, {"dim": 2, "heads": 2})]) == ["dim"]
