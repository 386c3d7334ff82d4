"""Retrieve stages on the report page: its numbers are counted by hand here, and what is absent or hostile harms nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from retrieval_jobs import TINY, job, retrieve, retriever, run, write_graph, write_questions

from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report import build
from kxbatch.stages.retrieve import ANSWERS

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{7*7}}"
PARTS = ("subject", "predicate", "meaning")
Texts = Callable[[Sequence[Any]], dict[Any, str]]


class Page(HTMLParser):
    """What the tests ask of a page: tags, attributes, the text, and each table row's text and numbers."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.words, self._start = html, "", 0
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.rows: list[tuple[str, list[float]]] = []
        self._values: list[float] = []
        self.feed(html)
        self.words = flat(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.words += " "
        if tag == "tr":
            self._start, self._values = len(self.words), []
        if tag == "data":
            self._values.append(float(dict(attrs)["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append((flat(self.words[self._start :]), self._values))

    def handle_data(self, data: str) -> None:
        self.words += data

    def line(self, label: str) -> list[float]:
        """Numbers of the only table row that begins so."""
        (numbers,) = [numbers for words, numbers in self.rows if words.startswith(label)]
        return numbers

    def shown(self, title: str) -> list[str]:
        """Rows of the list with this title, without their numbers."""
        table = re.findall(rf"<h3>{title}</h3>.*?</table>", self.html, flags=re.DOTALL)
        return [words for words, _ in Page(table[0]).rows[1:]] if table else []


def flat(words: str) -> str:
    """In one line, with plain blanks."""
    return " ".join(words.replace("\u202f", " ").split())


def answer(subject: str, predicate: str, parts: tuple[float, float, float], **fields: Any) -> dict[str, Any]:
    """One answer as the stage writes it."""
    score = sum(parts)
    made = {"subject": subject, "predicate": predicate, "meaning": "", "objects": ["it"], "score": score}
    return made | {"normalized_score": score / 4, "part_scores": list(parts)} | fields


class Outputs:
    """An output folder; `job` is what its record says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: dict[str, Any] = {"name": "asked", "stage": []}

    def stage(
        self, name: str, answers: Sequence[Any], columns: Mapping[str, Any] | None = None, *, cut: int = 2, **told: Any
    ) -> None:
        """A stage with these answers, the first `cut` rows in a part of their own; None or a text is why there is none."""
        self.job["stage"].append({"kind": "retrieve", "name": name, "threshold": None, "model": "m"} | told)
        lists = [[one, answer("second", "best", (-9, -9, -9))] if isinstance(one, dict) else [] for one in answers]
        why = [one if isinstance(one, str) else None for one in answers]
        rows = {"id": [f"q{at}" for at in range(len(answers))], **(columns or {})}
        table = pa.table(rows | {"answers": pa.array(lists, ANSWERS), "no_answer": pa.array(why, pa.string())})
        (self.folder / name).mkdir(parents=True)
        for number, part in enumerate((table.slice(0, cut), table.slice(cut))):
            pq.write_table(part, self.folder / name / f"part-{number:05d}.parquet", row_group_size=3)

    def page(self, texts: Texts | None = None) -> Page:
        """The page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps({"job": self.job, "status": "done", "exit_code": 0}))
        return Page(Path(build(Folder(str(self.folder)), texts).path).read_text(encoding="utf-8"))


ANSWERED = [
    answer("Bonn", "river", (-0.5, -0.25, 0.0), objects=["Rhine", "Sieg", "Ahr", "Main", "Lahn"]),  # right
    answer("ULM", "Mayor ", (-1.0, -2.0, -0.5)),  # right, once normalised
    "below-threshold",
    answer("Jena", "river", (-0.125, -0.5, 0.0)),  # another predicate
    answer("Hof", "mayor", (-3.0, 0.0, 0.0), meaning="Bavaria"),  # right: its meaning is in the kept subject's brackets
    "no-key",
    "below-threshold",
    answer("Trier", "river", (-0.25, 0.0, 0.0)),  # nothing is kept
]
KEPT: dict[str, list[Any]] = {
    "subject": ["Bonn", "ulm", "Linz", "Jena", "Hof（Bavaria）", "Graz", "Wien", None],
    "predicate": ["river", "mayor", "river", "mayor", "mayor", "river", "river", "river"],
    "train": [True, True, True, False, False, False, None, True],
}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def test_numbers_are_those_of_the_rows(outputs: Outputs) -> None:
    outputs.stage("retrieve", ANSWERED, threshold=-4.0)
    page = outputs.page()
    assert "Answered 62.5 % 2 below-threshold, 1 no-key" in page.words
    assert "Questions 8 Answered 5 below-threshold 2 no-key 1 Threshold −4.00 nats Mean log p −1.62 nats" in page.words
    assert page.line("subject") == [pytest.approx(-4.875 / 5), 0.6]
    assert page.line("predicate") == [pytest.approx(-2.75 / 5), 0.4]
    assert page.line("meaning") == [pytest.approx(-0.5 / 5), 0.0]
    assert "Below −4.00 a question gets no answer." in page.words
    assert ">threshold</text>" in page.html
    assert "kept facts" not in page.words
    assert "wrong subject" not in page.words


def test_rows_that_are_shown(outputs: Outputs) -> None:
    outputs.stage("retrieve", ANSWERED)
    page = outputs.page(lambda ids: {row: f"text of {row}" for row in ids})
    assert page.shown("Least sure") == [
        "−3.50 q1 text of q1 ULM - Mayor : it",
        "−3.00 q4 text of q4 Hof - mayor (Bavaria): it",
        "−0.75 q0 text of q0 Bonn - river: Rhine; Sieg; Ahr and 2 more",
        "−0.62 q3 text of q3 Jena - river: it",
        "−0.25 q7 text of q7 Trier - river: it",
    ]
    assert [words.split()[1] for words in page.shown("Typical")] == ["q0", "q3", "q7", "q4", "q1"]
    assert page.shown("Not answered") == [
        "q2 text of q2 below-threshold",
        "q5 text of q5 no-key",
        "q6 text of q6 below-threshold",
    ]
    assert "threshold</text>" not in page.html


def test_kept_facts_tell_what_is_right(outputs: Outputs) -> None:
    outputs.stage("retrieve", ANSWERED, KEPT)
    page = outputs.page()
    assert "all rows learned from new" in page.words
    assert page.line("Questions") == [7, 3, 3]
    assert page.line("Answered") == [4, 2, 2]
    assert page.line("Right subject") == [1.0, 1.0, 1.0]
    assert page.line("Right predicate") == [0.75, 1.0, 0.5]
    assert page.line("Both right") == [0.75, 1.0, 0.5]
    assert "right or not known 4" in page.words
    assert "wrong subject or predicate 1" in page.words
    assert [words for words in page.shown("Least sure") if "wrong" in words] == [
        "−0.62 q3 Jena - river: it wrong subject or predicate"
    ]


def test_which_rows_were_learned_from_is_told_by_the_training(outputs: Outputs) -> None:
    trained: dict[str, Any] = {"kind": "prefix-lm", "name": "speller", "fit_on": "odd"}
    outputs.job["stage"].append(trained)
    outputs.stage("retrieve", ANSWERED, KEPT | {"odd": [True, False] * 4}, model="stage:speller")
    assert outputs.page().line("Questions") == [7, 4, 3]
    trained["fit_on"] = None
    page = outputs.page()
    assert page.line("Questions") == [7]
    assert "trained on all rows of this job" in page.words
    trained["fit_on"] = "even"
    page = outputs.page()
    assert page.line("Questions") == [7]
    assert "keep the boolean column 'even' to tell them apart" in page.words


def test_rows_that_were_not_asked_do_not_count(outputs: Outputs) -> None:
    outputs.stage("retrieve", ANSWERED, KEPT)
    expected = outputs.page(lambda ids: {row: f"text of {row}" for row in ids}).words
    others = Outputs(outputs.folder.parent / "others")
    ids = ["x", "q0", "q1", "y", "q2", "z", *(f"q{at}" for at in range(3, 8))]
    places = [ids.index(f"q{at}") for at in range(8)]
    mixed: list[Any] = ["not-asked"] * len(ids)
    kept: dict[str, list[Any]] = {name: [values[0]] * len(ids) for name, values in KEPT.items()}
    for at, place in enumerate(places):
        mixed[place] = ANSWERED[at]
        for name, values in KEPT.items():
            kept[name][place] = values[at]
    others.stage("retrieve", mixed, {"id": ids, **kept}, cut=5)
    assert others.page(lambda ids: {row: f"text of {row}" for row in ids}).words == expected


@pytest.mark.parametrize("kept", [{"subject": KEPT["subject"]}, {"subject": range(8), "predicate": KEPT["predicate"]}])
def test_what_is_no_fact_is_not_compared(outputs: Outputs, kept: dict[str, Any]) -> None:
    outputs.stage("retrieve", ANSWERED, kept | {"train": ["yes"] * 8})
    assert "kept facts" not in outputs.page().words


def test_nothing_is_answered(outputs: Outputs) -> None:
    outputs.stage("retrieve", ["below-threshold"] * 3, {key: values[:3] for key, values in KEPT.items()}, threshold=-1)
    page = outputs.page()
    assert "Answered 0 % 3 below-threshold" in page.words
    assert page.line("Answered") == [0, 0]
    assert page.line("Both right") == []
    assert len(page.shown("Not answered")) == 3
    assert not page.shown("Least sure")
    assert "nan" not in page.words.lower()


def test_no_rows_and_several_stages(outputs: Outputs) -> None:
    outputs.stage("empty", [])
    outputs.job["stage"].append({"kind": "retrieve", "name": "not-begun"})
    assert 'id="retrieval"' not in outputs.page().html
    outputs.stage("one", ANSWERED[:1])
    outputs.stage("two", ANSWERED[1:3])
    page = outputs.page()
    assert "Answered 100 % one: all 1" in page.words
    assert "Answered 50 % two: 1 below-threshold" in page.words
    assert len(re.findall(r'id="retrieval-\d-histogram', page.html)) > 1


def test_a_long_tail_is_held_by_the_first_bar(outputs: Outputs) -> None:
    outputs.stage(
        "retrieve", [answer("a", "b", (-1 - at / 1000, 0, 0)) for at in range(999)] + [answer("a", "b", (-99, 0, 0))]
    )
    page = outputs.page()
    assert "The first bar holds 4 answers below it." in page.words
    assert page.shown("Least sure")[0] == "−99.00 q999 a - b: it"


def test_hostile_texts_are_shown_and_never_act(outputs: Outputs) -> None:
    fact = answer(HOSTILE, HOSTILE, (-1, 0, 0), meaning=HOSTILE, objects=[HOSTILE])
    name = HOSTILE.replace("/", "|")
    columns = {"id": [f"{HOSTILE}{at}" for at in range(3)], "subject": [HOSTILE] * 3, "predicate": ["x"] * 3}
    outputs.job["stage"].append({"kind": "prefix-lm", "name": "m", "fit_on": HOSTILE})
    outputs.stage(name, [fact, fact, HOSTILE], columns, model="stage:m")
    outputs.stage(f"{name}2", [fact, fact, HOSTILE], columns, threshold=HOSTILE)
    page = outputs.page(lambda ids: dict.fromkeys(ids, HOSTILE))
    assert page.tags.isdisjoint({"script", "img"})
    assert not {attribute for attribute in page.attributes if attribute.startswith("on")}
    assert page.words.count("alert(1)>{{7*7}}") > 20


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a"]}, "no column answers, no_answer"),
        ({"id": ["a"], "no_answer": ["x"], "answers": ["text"]}, "damaged"),
        ({"id": ["a"], "no_answer": ["x"], "answers": [[{"score": "high"}]]}, "damaged"),
        ({"id": ["a"], "no_answer": [None], "answers": [[answer("a", "b", (-1, 0, 0), part_scores=[1.0])]]}, "damaged"),
    ],
)
def test_a_damaged_part_is_named(outputs: Outputs, columns: dict[str, Any], words: str) -> None:
    outputs.stage("retrieve", ANSWERED)
    part = outputs.folder / "retrieve/part-00001.parquet"
    pq.write_table(pa.table(columns), part)
    with pytest.raises(DataError, match=rf"part-00001\.parquet: {words}"):
        outputs.page()
    part.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(DataError, match=r"part-00001\.parquet: damaged"):
        outputs.page()


def test_answers_without_numbers(outputs: Outputs) -> None:
    bare = dict.fromkeys(("subject", "predicate", "meaning", "objects", "score", "part_scores"))
    outputs.stage("retrieve", [bare, {**answer("a", "b", (-1, 0, 0)), "part_scores": None}, "below-threshold"])
    page = outputs.page()
    assert page.shown("Least sure") == ["−1.00 q1 a - b: it"]
    assert "nan" not in page.words.lower()


def test_what_the_stage_itself_writes(workplace: Path) -> None:
    write_graph()
    write_questions().gather_every(7).write_parquet("questions.parquet")
    trained = retriever(fit_on="train", model=TINY | {"dim": 32})
    run(job(trained, retrieve(answers=2, keep=["subject", "predicate", "train"])))
    from kxbatch.api import build_report

    page = Page(Path(build_report("out/kg")).read_text(encoding="utf-8"))
    rows = pa.concat_tables(
        [pq.read_table(path) for path in sorted(Path("out/kg/retrieve").glob("part-*"))]
    ).to_pylist()
    best = [row["answers"][0] for row in rows]
    right = [
        all(row[part].lower() == one[part].lower() for part in PARTS[:2]) for row, one in zip(rows, best, strict=True)
    ]
    learned = [row["train"] for row in rows]
    groups = [
        [yes for yes, group in zip(right, learned, strict=True) if group in kind]
        for kind in ((True, False), (True,), (False,))
    ]
    assert page.line("Both right") == [pytest.approx(sum(group) / len(group)) for group in groups]
    assert page.line("predicate")[0] == pytest.approx(sum(one["part_scores"][1] for one in best) / len(best))
    least = sorted(best, key=lambda one: one["score"])[:10]
    shown = page.shown("Least sure")
    assert [words.split()[0] for words in shown] == [f"−{-one['score']:.2f}" for one in least]
    assert all(re.search(r"the \w+ of|: \w+\?", words) for words in shown), "the question's text is found in the input"
