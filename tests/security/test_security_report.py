"""Hostile text in every place that data, names and documents can put it: the page is the same elements, and no script."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from finished import Finished
from fuzz.guard import verb
from support import audit_job

import kxbatch as kx

pytest_plugins = ["finished"]

HOSTILE = [
    "<script>pwned()</script>",
    '"><img src=x onerror=pwned()>',
    "'><svg/onload=pwned()>",
    "</script><script>pwned()</script>",
    "</title></style></pre></textarea>--><iframe src=javascript:pwned()>",
    "javascript:pwned()",
    "\u2028pwned()\u2029",
    "{{ 7 * 7 }}{% for x in pwned %}",
    "&lt;b&gt;&#60;script&#62;",
    "]]><a href='javascript:pwned()'>x</a>",
]
NEVER = {"script", "iframe", "img", "object", "embed", "form", "input", "base", "link", "video", "audio"}


class Elements(HTMLParser):
    """What a page is made of: elements, names of attributes, addresses, and its text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.addresses: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.add(name)
            if name in ("href", "src", "action", "xlink:href"):
                self.addresses.add(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def elements(page: str) -> Elements:
    found = Elements()
    found.feed(page)
    found.close()
    return found


def sound(found: Elements) -> None:
    assert not NEVER & found.tags.keys()
    assert not {name for name in found.attributes if name.startswith("on")}
    assert all(address.startswith("#") for address in found.addresses)


def corpus(hostile: bool) -> dict[str, Any]:
    """A corpus with hostile ids and texts, a hostile file name, and rows set aside; the job of an audit."""
    Path("data").mkdir()
    rows = []
    for number in range(30):
        text = HOSTILE[number % len(HOSTILE)] if hostile else f"plain {number % 10}"
        rows.append({"doc": f"{text} {number:02d}", "text": f"{text} alpha {number}", "lang": "xx"})
    rows += [{"doc": f"{HOSTILE[i] if hostile else 'plain'} bad{i}", "text": " ", "lang": "xx"} for i in range(3)]
    lines = [json.dumps(row) for row in rows] + [f"{HOSTILE[1] if hostile else 'plain'} is no JSON"]
    Path("data", "a <b>'\".jsonl" if hostile else "a.jsonl").write_text("\n".join(lines) + "\n")
    job = audit_job()
    job["job"]["quarantine"] = {"max_rows": 100, "max_share": 1.0}
    return job


@pytest.mark.parametrize("hostile", [False, True], ids=["plain", "hostile"])
def test_rows_and_ids(workplace: Path, hostile: bool) -> None:
    result = kx.run(corpus(hostile), quiet=True)
    assert result.exit_code == 0
    found = elements(Path("out/audit/report.html").read_text())
    sound(found)
    wanted = HOSTILE[0] if hostile else "plain"
    assert wanted in found.text, "what the data say is there as text"
    assert "49" not in found.text or not hostile or "{{ 7 * 7 }}" in found.text


@pytest.mark.parametrize("text", [" ".join(HOSTILE[::2]), " ".join(HOSTILE[1::2])], ids=["even", "odd"])
def test_what_the_record_says(finished: Finished, text: str) -> None:
    """Every string of run.json that names nothing, and the names of columns: the same elements as before."""
    before = elements((finished.output / "report.html").read_text())
    record = json.loads((finished.output / "run.json").read_text())
    record["job"]["name"] = record["fingerprint"] = record["started"] = text
    record["versions"][text] = text
    record["job"]["input"]["path"] = [text]
    for stage in (*record["stages"], *record["job"]["stage"]):
        stage["note"] = stage["kind"] = text if stage["name"] == "embed" else stage["kind"]
        stage["column"] = text
    for unit in record["stages"][0]["units"]:
        unit["worker"] = text
    (finished.output / "run.json").write_text(json.dumps(record))
    assert verb("report", "out/audit")[0] == 0
    found = elements((finished.output / "report.html").read_text())
    sound(found)
    assert found.attributes == before.attributes
    assert set(found.tags) == set(before.tags)
    assert text in found.text


def extraction(hostile: bool) -> dict[str, Any]:
    """Texts, ids, types of entities and names of columns, as they come or made to harm; the job that extracts from them."""
    said = HOSTILE if hostile else [f"plain{number} words" for number in range(len(HOSTILE))]
    text, gold = (said[1], said[9]) if hostile else ("text", "labels")
    spans = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("type", pa.string())]))
    short = [{"start": 0, "end": 3, "type": one} for one in said]
    whole = [{"start": 0, "end": len(one) - at % 3, "type": one} for at, one in enumerate(said)]
    marked = [list(pair) for pair in zip(whole, short, strict=True)]
    columns = {
        "id": [f"{one} {n}" for n, one in enumerate(said * 3)],
        text: said * 3,
        gold: pa.array(marked * 3, spans),
    }
    pq.write_table(pa.table(columns), "texts.parquet")
    tiny = {"dim": 32, "layers": 1, "key_dim": 16, "base_length": 32, "init": "lecun"}
    training = {"steps": 2, "batch_rows": 8, "validation_share": 0.0, "precision": "fp32"}
    stages = [
        {"kind": "tokenizer", "column": text, "unit": "characters", "vocabulary": 400},
        {
            "kind": "ner",
            "column": text,
            "labels": gold,
            "tokenizer": "stage:tokenizer",
            "model": tiny,
            "training": training,
        },
        {"kind": "extract", "input": "input", "column": text, "model": "stage:ner", "keep": [text, gold]},
    ]
    stages[2] |= {"threshold": -0.5, "max_width": 5}
    where = {"name": "names", "output": "out", "executor": "inline"}
    return {"job": where, "input": {"path": ["texts.parquet"], "id": "id"}, "stage": stages}


def extracted(hostile: bool) -> tuple[Elements, Elements]:
    """The report of such a job, and the page of an evaluation of it, one path of which is hostile, too."""
    made = extraction(hostile)
    assert kx.run(made, quiet=True).exit_code == 0
    place = Path((HOSTILE[1] if hostile else "plain").replace("/", "|"))
    shutil.copytree("out/extract", place)
    text, gold = made["stage"][2]["keep"]
    said = verb("extract", "eval", "out/extract", str(place), "--text", text, "--gold", gold, "--output", "measured")
    assert said[0] == 0
    return elements(Path("out/report.html").read_text()), elements(Path("measured/evaluation.html").read_text())


def test_texts_and_types_of_entities(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for hostile in (False, True):
        Path(f"{hostile}").mkdir()
        monkeypatch.chdir(workplace / f"{hostile}")
        pages.append(extracted(hostile))
        monkeypatch.chdir(workplace)
    assert all("Least sure" in report.text and "Wrong" in page.text for report, page in pages), (
        "there is something shown"
    )
    for plain, found in zip(*pages, strict=True):
        sound(found)
        assert found.attributes <= plain.attributes
        assert set(found.tags) <= set(plain.tags)
        assert "{{ 7 * 7 }}" in found.text, "a template in the data is text"
        for text in (HOSTILE[0], HOSTILE[1], HOSTILE[4], HOSTILE[5]):
            assert text[:20] in found.text, "what the data say is there as text"


def test_failures_and_warnings(finished: Finished) -> None:
    record = json.loads((finished.output / "run.json").read_text())
    record["status"], record["exit_code"], record["message"] = "incomplete", 3, HOSTILE[1]
    record["failures"] = [
        {"phase": "map", "key": "part-00000", "error": text, "message": text, "attempts": 1} for text in HOSTILE
    ]
    record["warnings"] = HOSTILE
    (finished.output / "run.json").write_text(json.dumps(record))
    assert verb("report", "out/audit")[0] == 0
    found = elements((finished.output / "report.html").read_text())
    sound(found)
    assert all(text in found.text for text in HOSTILE)


def test_the_page_forbids_what_it_does_not_need(finished: Finished) -> None:
    page = (finished.output / "report.html").read_text()
    assert "default-src 'none'" in page
    assert "script-src" not in page, "no script is allowed at all"
