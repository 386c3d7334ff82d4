"""Evaluation of extraction: measures from files as they are, several systems over the same rows, and what is refused."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from kxbatch.cli import cli
from kxbatch.engine.span_evaluation import Evaluation, evaluate
from kxbatch.engine.span_examples import MOST
from kxbatch.engine.span_rows import Columns
from kxbatch.errors import ConfigError, DataError
from kxbatch.report.span_evaluation import render

LABELS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
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
FAR = pa.list_(pa.struct([("start", pa.uint64()), ("end", pa.uint64()), ("type", pa.string())]))
TEXTS = ["北京大学在北京。", "New York University", "👩‍💻 Zoë in Köln", "nothing here", "<b>Ulm</b> & Bonn"]
GOLD: list[Any] = [
    [(0, 4, "ORG"), (0, 2, "LOC"), (5, 7, "LOC")],
    [(0, 19, "ORG"), (0, 8, "LOC")],
    [(4, 7, "PER"), (11, 15, "LOC")],
    [],
    [(3, 6, "LOC"), (13, 17, "<i>")],
]
FOUND: list[Any] = [
    [(0, 4, "ORG", 5.0), (0, 2, "LOC", 3.0), (5, 8, "LOC", 0.5)],  # a boundary
    [(0, 19, "LOC", 1.0)],  # a type; (0, 8) is missed
    [(4, 7, "PER", 2.0), (8, 10, "LOC", 0.25)],  # spurious, one missed
    [],
    [(3, 6, "LOC", 1.5), (12, 17, "LOC", 0.75)],  # boundary and type
]
COUNTS = {"right": 4, "type": 1, "boundary": 1, "boundary and type": 1, "spurious": 1, "missed": 2}


def labels(spans: list[Any] = GOLD) -> pa.Array:
    rows = [
        None if one is None else [dict(zip(("start", "end", "type"), span, strict=True)) for span in one]
        for one in spans
    ]
    return pa.array(rows, LABELS)


def entities(spans: list[Any] = FOUND, texts: list[str] = TEXTS) -> pa.Array:
    names = ("start", "end", "type", "score", "text")
    rows = [
        [dict(zip(names, (*span, text[span[0] : span[1]]), strict=True)) for span in one]
        for one, text in zip(spans, texts, strict=True)
    ]
    return pa.array(rows, ENTITIES)


def table(**columns: Any) -> pa.Table:
    ids = [f"r{at}" for at in range(len(TEXTS))]
    return pa.table({"id": ids, "text": TEXTS, "labels": labels(), "entities": entities()} | columns)


def stage(folder: Path, rows: pa.Table, cut: int = 2) -> str:
    """A folder of two parts."""
    folder.mkdir(parents=True)
    for number, part in enumerate((rows.slice(0, cut), rows.slice(cut))):
        pq.write_table(part, folder / f"part-{number:05d}.parquet")
    return str(folder)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(cli, ["extract", "eval", *words], catch_exceptions=False)


def test_measures_are_those_by_hand(tmp_path: Path) -> None:
    told = evaluate([stage(tmp_path / "x", table())], Columns()).to_json()
    (system,) = told["systems"]
    assert (told["texts"], told["gold_spans"], told["gold_nested"]) == (5, 9, 4)
    assert system["errors"] == COUNTS
    assert system["micro"]["precision"] == pytest.approx(4 / 8)
    assert system["micro"]["recall"] == pytest.approx(4 / 9)
    assert system["micro"]["f1"] == pytest.approx(2 * 4 / 17)
    assert (system["nested"]["recall"], system["nested"]["precision"]) == (2 / 4, 2 / 2)
    assert (system["flat"]["recall"], system["flat"]["precision"]) == (2 / 5, 2 / 6)
    assert system["by_type"]["PER"]["f1"] == 1.0
    assert system["by_type"]["<i>"] == {
        **dict.fromkeys(("found", "recalled", "right"), 0),
        **{"gold": 1, "precision": None, "recall": 0.0, "f1": 0.0},
    }
    assert system["confusions"] == [
        {"gold": "<i>", "found": "LOC", "count": 1},
        {"gold": "ORG", "found": "LOC", "count": 1},
    ]
    assert system["examples"]["boundary"] == [
        {
            "id": "r0",
            "gold": {"start": 5, "end": 7, "type": "LOC", "text": "北京"},
            "found": {"start": 5, "end": 8, "type": "LOC", "text": "北京。", "score": 0.5},
        }
    ]
    assert [one["gold"]["text"] for one in system["examples"]["missed"]] == ["New York", "Köln"]
    assert [one["found"]["text"] for one in system["examples"]["spurious"]] == ["in"]


def test_types_of_columns_do_not_matter(tmp_path: Path) -> None:
    wide = pa.large_list(pa.struct([("type", pa.large_string()), ("end", pa.int64()), ("start", pa.int64())]))
    rows = [[{"start": a, "end": b, "type": kind} for a, b, kind in one] for one in GOLD]
    other = table(labels=pa.array(rows, wide), text=pa.array(TEXTS).dictionary_encode(), id=range(5))
    found = pa.array([[{"start": a, "end": b, "type": kind} for a, b, kind, _ in one] for one in FOUND], LABELS)
    path = tmp_path / "x.parquet"
    pq.write_table(other.drop_columns("entities").append_column("entities", found), path)
    system = evaluate([str(path)], Columns()).to_json()["systems"][0]
    assert system["errors"] == COUNTS
    assert system["examples"]["boundary"][0]["found"]["score"] is None
    assert "nan" not in json.dumps(system).lower()


def test_a_span_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    twice = table(labels=labels([one + one for one in GOLD]), entities=entities([one + one for one in FOUND]))
    assert evaluate([stage(tmp_path / "x", twice)], Columns()).to_json()["systems"][0]["errors"] == COUNTS


def test_splits_and_rows_that_nobody_labelled(tmp_path: Path) -> None:
    rows = table(labels=labels([*GOLD[:4], None]), split=["test", "test", "test", "train", "test"])
    path = stage(tmp_path / "x", rows, cut=4)
    told = evaluate([path], Columns(split="test")).to_json()
    assert (told["texts"], told["systems"][0]["rows_without_gold"]) == (3, 1)
    assert evaluate([path], Columns(split="train")).to_json()["gold_spans"] == 0
    with pytest.raises(DataError, match=r"no rows of split 'tests'; it has test, train; did you mean 'test'\?"):
        evaluate([path], Columns(split="tests"))
    nobody = stage(tmp_path / "y", table(labels=labels([None] * 5)))
    with pytest.raises(DataError, match="column 'labels' is null in all 5 rows"):
        evaluate([nobody], Columns())


def test_systems_are_compared_over_the_same_rows_in_any_order(tmp_path: Path) -> None:
    first = stage(tmp_path / "a/extract", table())
    perfect = [[(*span, 1.0) for span in one] for one in GOLD]
    turned = table(entities=entities(perfect)).take(pa.array([3, 1, 4, 0, 2]))
    second = stage(tmp_path / "b/extract", turned, cut=3)
    evaluation = evaluate([first, second], Columns())
    assert [system.name for system in evaluation.systems] == ["a/extract", "b/extract"]
    assert evaluation.best.name == "b/extract"
    told = evaluation.to_json()["systems"]
    assert told[0]["errors"] == COUNTS
    assert told[1]["errors"] == dict.fromkeys(COUNTS, 0) | {"right": 9}
    assert told[1]["examples"] == {}
    page = render(evaluation)
    assert "None: every gold span was found" in page


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (table().slice(1), "no row with id 'r0', which .* has \\(1 such rows\\)"),
        (table(id=["r0", "r1", "r2", "r3", "new"]), "no row with id 'r4'"),
        (table(id=["r0", "r1", "r2", "r3", "r3"]), "two rows have the id 'r3'"),
        (table(text=[*TEXTS[:4], TEXTS[4] + "!"]), "id 'r4' has another text"),
        (table(labels=labels([*GOLD[:1], [], *GOLD[2:]])), "id 'r1' has other right spans"),
        (table().drop_columns("id"), "no column 'id'"),
    ],
)
def test_other_rows_are_no_comparison(tmp_path: Path, other: pa.Table, words: str) -> None:
    paths = [stage(tmp_path / "a", table()), stage(tmp_path / "b", other)]
    with pytest.raises(DataError, match=words):
        evaluate(paths, Columns())
    with pytest.raises(ConfigError, match="given twice"):
        evaluate(paths[:1] * 2, Columns())


def gold_with(*spans: Any) -> dict[str, Any]:
    return {"labels": labels([[], list(spans), [], [], []])}


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (
            gold_with((0, 20, "ORG")),
            r"row with id 'r1', column 'labels': span \[0, 20\) of type 'ORG' is not in its text of 19",
        ),
        (gold_with((0, 3, "x"), (5, 2, "ORG")), r"span \[5, 2\) of type 'ORG' is empty or inverted"),
        (gold_with((3, 3, "ORG")), "empty or inverted"),
        (gold_with((-1, 3, "ORG")), r"span \[-1, 3\)"),
        (gold_with((0, None, "ORG")), "a span without end"),
        (gold_with((0, 3, None)), "a span without type"),
        ({"entities": entities([[], [(0, 40, "ORG", 1.0)], [], [], []])}, "column 'entities': span"),
        ({"entities": pa.array([[], None, [], [], []], ENTITIES)}, "'r1', column 'entities': null"),
        ({"text": [*TEXTS[:4], None]}, "'r4', column 'text': no text"),
        ({"labels": TEXTS}, "column 'labels' is string; spans are list<struct"),
        ({"labels": [[{"starts": 1}]] * 5}, "did you mean 'starts'"),
        ({"labels": [[{"start": "x", "end": 2, "type": "t"}]] * 5}, "start is string, an integer is wanted"),
        ({"labels": [[{"start": 0.0, "end": 2.0, "type": "t"}]] * 5}, "start is double, an integer is wanted"),
        (gold_with((0, 3, "")), "'r1', column 'labels': span .0, 3. of type '': a type has a name"),
        ({"entities": entities([[], [(0, 8, "", 1.0)], [], [], []])}, "column 'entities': span .* a type has a name"),
        (
            {"labels": pa.array([[{"start": 0, "end": 2**63 + 5, "type": "t"}]] * 5, FAR)},
            "'r0'.* or more. of type 't' is not in",
        ),
        ({"text": [[1]] * 5}, "texts are wanted"),
    ],
)
def test_spans_that_are_none_are_named(tmp_path: Path, columns: dict[str, Any], words: str) -> None:
    path = stage(tmp_path / "x", table(**columns))
    with pytest.raises(DataError, match=rf"part-0000\d\.parquet: .*{words}"):
        evaluate([path], Columns())


def test_the_command_line(tmp_path: Path) -> None:
    path, out = stage(tmp_path / "x", table(split=["test"] * 5)), tmp_path / "new/out"
    done = invoke(path, "--split", "test", "--output", str(out))
    assert done.exit_code == 0
    assert "5 texts, 9 gold spans, 4 of them nested" in done.stdout
    assert "47.06" in done.stdout
    told = json.loads(invoke(path, "--json").stdout)
    assert json.loads((out / "evaluation.json").read_text(encoding="utf-8")) == told | {"split": "test"}
    assert (out / "evaluation.html").exists()
    with pytest.raises(DataError, match=r"no column 'label'; .*did you mean 'labels'\?.*`keep` names"):
        invoke(path, "--gold", "label")
    with pytest.raises(DataError, match=r"no column 'entitys'.*did you mean 'entities'"):
        invoke(path, "--found", "entitys")
    with pytest.raises(ConfigError, match="no such folder or file"):
        invoke(str(tmp_path / "absent"))
    (tmp_path / "text.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"text\.parquet: damaged"):
        invoke(str(tmp_path / "text.parquet"))
    pq.write_table(table().slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        invoke(str(tmp_path / "empty.parquet"))


class Page(HTMLParser):
    """Tags with their attributes, and the words."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def evaluation_of(folder: Path, rows: pa.Table) -> Evaluation:
    return evaluate([stage(folder, rows)], Columns())


def test_the_page_shows_the_errors_and_loads_nothing(tmp_path: Path) -> None:
    text = render(evaluation_of(tmp_path / "x", table()))
    page = Page(text)
    assert not [tag for tag, attrs in page.tags if tag in ("script", "link", "img") or "src" in attrs]
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "http" not in text.replace("http-equiv", "")
    for words in ("Wrong type", "Wrong boundary", "Wrong boundary and type", "Spurious", "Missed"):
        assert words in page.words
    assert "Bonn · <i>" in page.words
    assert "found Bonn · LOC, score 0.750" in " ".join(page.words.split())
    titles = {attrs["title"] for tag, attrs in page.tags if tag == "span" and attrs.get("title")}
    assert {"right ORG, score 5.00; right LOC, score 3.00", "found LOC, score 0.75; gold <i>", "gold LOC"} <= titles
    anchors = {str(attrs["href"])[1:] for tag, attrs in page.tags if tag == "a"}
    assert anchors == {attrs["id"] for tag, attrs in page.tags if "id" in attrs}


def test_examples_are_few_and_spread(tmp_path: Path) -> None:
    count = 1000
    rows = pa.table(
        {
            "id": range(count),
            "text": ["abc"] * count,
            "labels": labels([[(0, 1, "x")]] * count),
            "entities": entities([[]] * count, ["abc"] * count),
        }
    )
    missed = evaluation_of(tmp_path / "x", rows).to_json()["systems"][0]["examples"]["missed"]
    assert len(missed) == MOST
    assert (missed[0]["id"], missed[-1]["id"]) == (0, count - 1)
