"""Extract stages on the report page: its numbers are counted by hand here, and what is absent or hostile harms nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from extraction_jobs import extract, job, ner, sentences, tokenizer, write_sentences

import kxbatch as kx
from kxbatch.cli import cli
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report import build
from kxbatch.report.wording import nats, number

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{7*7}}"
ENTITIES = pa.list_(
    pa.struct(
        [
            ("start", pa.int32()),
            ("end", pa.int32()),
            ("type", pa.dictionary(pa.int32(), pa.string())),
            ("score", pa.float32()),
            ("text", pa.string()),
        ]
    )
)
Texts = Callable[[Sequence[Any]], Mapping[Any, str]]
TEXTS = ["北京大学在北京。", "nothing here", "New York University, New York", "Zoë in Köln\tam Rhein"]
FOUND = [
    [(0, 4, "ORG", 5.0), (0, 2, "LOC", 3.0), (5, 7, "LOC", 1.5)],
    [],
    [(0, 19, "ORG", 4.0), (0, 8, "LOC", 2.0), (21, 29, "LOC", 2.5)],
    [(0, 3, "PER", 0.25), (7, 11, "LOC", 3.5)],
]


class Page(HTMLParser):
    """Tags, attributes, titles, the words, and each table row's text and numbers."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.words, self._start = html, "", 0
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.titles: set[str] = set()
        self.rows: dict[str, list[float]] = {}
        self._values: list[float] = []
        self.feed(html)
        self.words = flat(self.words)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self.attributes |= found.keys()
        if tag == "span" and found.get("title"):
            self.titles.add(found["title"] or "")
        if tag == "tr":
            self._start, self._values = len(self.words), []
        if tag == "data":
            self._values.append(float(found["value"] or "nan"))

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows[flat(self.words[self._start :]).split(" ")[0]] = self._values
            self._values = []
        if tag in ("td", "th", "dt", "dd", "li", "p", "h2", "h3", "code", "small"):
            self.words += " "

    def handle_data(self, data: str) -> None:
        self.words += data


def flat(words: str) -> str:
    """In one line, with plain blanks."""
    return " ".join(words.replace("\u202f", " ").split())


def entities(found: Sequence[Any], texts: Sequence[str]) -> pa.Array:
    names = ("start", "end", "type", "score", "text")
    return pa.array(
        [
            [dict(zip(names, (*one, text[one[0] : one[1]]), strict=True)) for one in row]
            for row, text in zip(found, texts, strict=True)
        ],
        ENTITIES,
    )


def invoke(*words: str) -> Result:
    """An evaluation in this process."""
    return CliRunner().invoke(cli, ["extract", "eval", *words], catch_exceptions=False)


class Outputs:
    """An output folder; `job` is what its record says."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.job: dict[str, Any] = {"name": "ner", "stage": []}

    def stage(self, name: str, found: Sequence[Any], texts: Sequence[str], *, cut: int = 2, **told: Any) -> None:
        """A stage with these entities, the first `cut` rows in a part of their own."""
        self.job["stage"].append({"kind": "extract", "name": name, "model": "m"} | told)
        table = pa.table({"id": [f"r{at}" for at in range(len(texts))], "entities": entities(found, texts)})
        (self.folder / name).mkdir(parents=True)
        for shard, part in enumerate((table.slice(0, cut), table.slice(cut))):
            pq.write_table(part, self.folder / name / f"part-{shard:05d}.parquet", row_group_size=3)

    def page(self, texts: Texts | None = None) -> Page:
        """The page."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "run.json").write_text(json.dumps({"job": self.job, "status": "done", "exit_code": 0}))
        return Page(Path(build(Folder(str(self.folder)), texts).path).read_text(encoding="utf-8"))


def known(texts: Sequence[str]) -> Texts:
    return lambda ids: {row: texts[int(str(row)[1:])] for row in ids}


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "out")


def test_numbers_are_those_of_the_rows(outputs: Outputs) -> None:
    outputs.stage("extract", FOUND, TEXTS, threshold=0.0, policy="nested")
    page = outputs.page()
    assert "Entities 8 2 a text, 25 % of them have none" in page.words
    assert (
        "Texts 4 Without an entity 1, 25 % Entities 8 a text 2 Nested 4, 50 % Types 3 Threshold 0 Policy nested"
        in page.words
    )
    assert page.rows["LOC"] == [
        5,
        5 / 8,
        pytest.approx((3 + 1.5 + 2 + 2.5 + 3.5) / 5),
        pytest.approx((2 + 2 + 8 + 8 + 4) / 5),
    ]
    assert page.rows["ORG"] == [2, 2 / 8, 4.5, pytest.approx((4 + 19) / 2)]
    assert page.rows["PER"] == [1, 1 / 8, 0.25, 3]
    assert "The widest entity has 19 characters." in page.words
    assert ">threshold</text>" in page.html


def test_rows_that_are_shown(outputs: Outputs) -> None:
    outputs.stage("extract", FOUND, TEXTS)
    page = outputs.page(known(TEXTS))
    lists = {
        title: re.findall(r"r\d", words)
        for title, words in re.findall(r"(Least sure|Most nested|Typical) (.*?)(?=Most nested|Typical|Job)", page.words)
    }
    assert lists["Least sure"] == ["r3", "r0", "r2"]
    assert lists["Most nested"] == ["r0", "r2"], "both have two, the first comes first"
    assert lists["Typical"] == ["r2", "r0", "r3"], "the median of the means is that of r2"
    assert {"ORG, score 5.00; LOC, score 3.00", "ORG, score 5.00", "LOC, score 1.50", "PER, score 0.25"} <= page.titles
    assert "r3 score 0.25 ZoëPER in KölnLOC⇥am Rhein" in page.words
    assert re.findall(r'class="below l0 (t\d) focus begins"', page.html) == ["t2", "t0", "t0"]
    assert "threshold</text>" not in page.html


def test_entities_alone_where_the_text_is_unknown_or_another_one(outputs: Outputs) -> None:
    outputs.stage("extract", FOUND, TEXTS)
    words = "r2 score 2.00 New York · LOC; New York University · ORG; New York · LOC"
    assert words in outputs.page().words
    changed = outputs.page(known([text.replace("n", "m") for text in TEXTS]))
    assert "r3 score 0.25 Zoë · PER; Köln · LOC" in changed.words
    assert "r2 score 2.00 New YorkLOC Umiversity" not in changed.words
    many = [[(at, at + 1, "X", 1.0) for at in range(15)]]
    outputs.stage("many", many, ["a" * 15])
    assert "a · X; and 3 more" in outputs.page().words


def test_nothing_is_found(outputs: Outputs) -> None:
    outputs.stage("extract", [[], [], []], ["a", "b", "c"], threshold=0)
    page = outputs.page()
    assert "Entities 0 0 a text, 100 % of them have none" in page.words
    assert "Least sure" not in page.words
    assert "nan" not in page.words.lower()


def test_no_rows_and_several_stages(outputs: Outputs) -> None:
    outputs.stage("empty", [], [])
    outputs.job["stage"].append({"kind": "extract", "name": "not-begun"})
    assert 'id="extraction"' not in outputs.page().html
    outputs.stage("one", FOUND[:1], TEXTS[:1])
    outputs.stage("two", FOUND[1:], TEXTS[1:])
    page = outputs.page()
    assert "one: 3 a text, 0 % of them have none" in page.words
    assert "two: 1.67 a text, 33.3 % of them have none" in page.words
    ids = re.findall(r'id="([^"]+)"', page.html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize(
    ("head", "given", "words", "drawn"),
    [
        ("efficient-globalpointer", None, "Threshold 0 ", True),
        ("globalpointer", None, "Threshold 0 ", True),
        ("crf", None, "Threshold none; the best tags of the CRF", False),
        ("crf", -1.5, "Threshold -1.5 ", True),
        ("globalpointer", 2, "Threshold 2 ", True),
        (None, None, "Threshold 0; of a CRF, its best tags", False),
    ],
)
@pytest.mark.parametrize("own", [True, False], ids=["stage", "folder"])
def test_the_threshold_that_held_is_told(
    outputs: Outputs, tmp_path: Path, own: bool, head: str | None, given: float | None, words: str, drawn: bool
) -> None:
    artifact = outputs.folder / "ner/_artifact" if own else tmp_path / "model"
    if head is not None:
        artifact.mkdir(parents=True)
        (artifact / "config.json").write_text(json.dumps({"architecture": "kxbatch-extractor", "head": head}))
    outputs.job["stage"].append({"kind": "ner", "name": "ner"})
    told: dict[str, Any] = {"model": "stage:ner" if own else str(artifact)}
    outputs.stage("extract", FOUND, TEXTS, **told, **({} if given is None else {"threshold": given}))
    page = outputs.page()
    assert words in page.words.replace("\u2212", "-")
    assert (">threshold</text>" in page.html) is drawn


def test_long_tails_are_held_by_the_outer_bars(outputs: Outputs) -> None:
    rng = np.random.default_rng(0)
    scores = [*rng.uniform(1, 2, 998).tolist(), 1000.0, -1000.0]
    wide = [[(0, 30 if at == 7 else 1, "X", score)] for at, score in enumerate(scores)]
    outputs.stage("extract", wide, ["a" * 30] * 1000)
    page = outputs.page()
    assert "The first bar holds 4 below it. The last bar holds 4 above it." in page.words
    assert "≥ 25</text>" in page.html
    assert "The widest entity has 30 characters." in page.words


def test_many_types_begin_their_colours_anew(outputs: Outputs) -> None:
    outputs.stage("extract", [[(0, 1, f"T{at:02d}", 1.0)] for at in range(35)], ["a"] * 35)
    page = outputs.page()
    assert "And 5 rarer types." in page.words
    assert [row for row in page.rows if row.startswith("T")] == [f"T{at:02d}" for at in range(30)]


def test_hostile_texts_are_shown_and_never_act(outputs: Outputs) -> None:
    name = HOSTILE.replace("/", "|")
    found = [[(0, 8, HOSTILE, 1.0), (0, 4, HOSTILE, 0.5)]] * 3
    outputs.stage(name, found, [HOSTILE] * 3, policy=HOSTILE, threshold=HOSTILE)
    outputs.stage(f"{name}2", found, [HOSTILE] * 3)
    for page in (outputs.page(known([HOSTILE] * 3)), outputs.page()):
        assert page.tags.isdisjoint({"script", "img"})
        assert not {attribute for attribute in page.attributes if attribute.startswith("on")}
        assert page.words.count("alert(1)>{{7*7}}") > 10


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"id": ["a"]}, "no column entities"),
        ({"id": ["a"], "entities": ["text"]}, "damaged"),
        ({"id": ["a"], "entities": [[{"start": 1}]]}, "damaged"),
        ({"id": ["a"], "entities": entities([[(0, 1, "X", None)]], ["a"])}, "damaged .an entity without score"),
    ],
)
def test_a_damaged_part_is_named(outputs: Outputs, columns: dict[str, Any], words: str) -> None:
    outputs.stage("extract", FOUND, TEXTS)
    part = outputs.folder / "extract/part-00001.parquet"
    pq.write_table(pa.table(columns), part)
    with pytest.raises(DataError, match=rf"part-00001\.parquet: {words}"):
        outputs.page()
    part.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(DataError, match=r"part-00001\.parquet: damaged"):
        outputs.page()


def test_scores_that_are_no_numbers_and_null_lists(outputs: Outputs) -> None:
    outputs.stage("extract", [[(0, 1, "X", float("nan"))], [(0, 1, "X", float("inf"))]], ["a", "b"])
    page = outputs.page(known(["a", "b"]))
    assert page.rows["X"][0] == 2
    table = pa.table({"id": ["r0"], "entities": pa.array([None], ENTITIES)})
    pq.write_table(table, outputs.folder / "extract/part-00002.parquet")
    assert "Without an entity 1" in outputs.page().words


def test_what_the_stages_themselves_write(workplace: Path) -> None:
    texts = sentences(150)
    write_sentences(texts=texts, train=[at % 3 > 0 for at in range(len(texts))])
    keep = ["text", "labels", "train"]
    few = {"steps": 60}
    stages = [tokenizer(), ner(training=few, fit_on="train"), extract(keep=keep, threshold=-1.0)]
    stages += [
        ner(name="tags", head="crf", training=few, fit_on="train"),
        extract(name="flat", model="stage:tags", keep=keep),
    ]
    assert kx.run(job(*stages), quiet=True).exit_code == 0

    page = Page(Path("out/report.html").read_text(encoding="utf-8"))
    rows = [row for part in sorted(Path("out/extract").glob("part-*")) for row in pq.read_table(part).to_pylist()]
    found = [one for row in rows for one in row["entities"]]
    assert found
    assert f"Entities {len(found)} extract: {flat(number(len(found) / 150))} a text" in page.words
    assert f"Texts 150 Without an entity {sum(not row['entities'] for row in rows)}" in page.words
    first = page.html.index(">extract</summary>"), page.html.index(">flat</summary>")
    assert Page(page.html[slice(*first)]).rows["LOC"][0] == sum(one["type"] == "LOC" for one in found)
    least = min(found, key=lambda one: one["score"])
    words = f"{least['type']}, score {nats(least['score'])}"
    assert any(words in title for title in page.titles), "the texts are those of the input"

    said = invoke("out/extract", "out/flat", "--split-column", "train", "--split", "false", "--json")
    told = json.loads(said.stdout)
    assert [one["name"] for one in told["systems"]] == ["extract", "flat"]
    assert told["texts"] == 50
    tested = [row for row in rows if not row["train"]]
    spans = [
        [{(one["start"], one["end"], one["type"]) for one in row[side]} for row in tested]
        for side in ("labels", "entities")
    ]
    right = sum(len(gold & given) for gold, given in zip(*spans, strict=True))
    micro = told["systems"][0]["micro"]
    assert (micro["right"], micro["found"]) == (right, sum(map(len, spans[1])))
    assert told["systems"][1]["nested"]["found"] == 0, "tags say no nested spans"
