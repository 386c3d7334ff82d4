"""The report page: it shows what the files say, loads nothing, escapes everything, and copes with what is absent."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from kxbatch.data.storage import File, Folder
from kxbatch.errors import DataError
from kxbatch.report import RowId, build

K = 4
SHARDS = 3
VOID = {"meta", "link", "img", "br", "hr", "input", "source", "wbr", "col", "area", "base", "embed", "track"}
SECTIONS = {
    "hubness", "spectrum-of-1", "throughput", "quarantine", "measures", "hubs", "antihubs", "neighbours", "job",
}  # fmt: skip
HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&amp;{{7*7}}"


@dataclass
class Element:
    """One node of a parsed page."""

    tag: str
    attributes: dict[str, str | None]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> list[Element]:
        below = [node for child in self.children if isinstance(child, Element) for node in child.walk()]
        return [self, *below]

    def all(self, tag: str, **wanted: str) -> list[Element]:
        wanted = {name.rstrip("_"): value for name, value in wanted.items()}
        return [
            node
            for node in self.walk()
            if node.tag == tag
            and all(value in (node.attributes.get(name) or "").split() for name, value in wanted.items())
        ]

    @property
    def text(self) -> str:
        parts = (child if isinstance(child, str) else child.text for child in self.children)
        return " ".join("".join(parts).split())


class StrictParser(HTMLParser):
    """Builds a tree and refuses tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("root", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"doubled attribute in <{tag}>"
        element = Element(tag, dict(attrs))
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open[-1].children.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def parse(page: File) -> Element:
    """The page as a tree, after checks that hold for every page: well formed, alone, nothing active."""
    text = Path(page.path).read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    parser = StrictParser()
    parser.feed(text)
    parser.close()
    assert len(parser.open) == 1, "tags left open"
    nodes = parser.root.walk()
    assert not {node.tag for node in nodes} & {"script", "iframe", "object", "embed", "link", "img", "base", "form"}
    ids = [identity for node in nodes if (identity := node.attributes.get("id"))]
    assert len(ids) == len(set(ids))
    for node in nodes:
        for name, value in node.attributes.items():
            assert not name.startswith("on"), f"<{node.tag} {name}>"
            assert name not in {"src", "srcset", "action"}
            if name in {"href", "xlink:href"}:
                assert str(value).removeprefix("#") in ids, f"{value} leads nowhere"
            if name not in {"content", "value", "title"}:
                assert "://" not in str(value), f"<{node.tag} {name}={value}>"
    css = "".join(node.text for node in parser.root.all("style"))
    assert "url(" not in css
    assert "@import" not in css
    used = set(re.findall(r"var\(--([a-z-]+)\)", text))
    assert used <= set(re.findall(r"--([a-z-]+):", css))
    return parser.root


def section(page: Element, identity: str) -> Element:
    """The element with this id."""
    (found,) = [node for node in page.walk() if node.attributes.get("id") == identity]
    return found


def values(element: Element) -> list[float]:
    """Every number shown in an element, as exactly as the page holds it."""
    return [float(node.attributes["value"] or "nan") for node in element.all("data")]


def nearest(vectors: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Brute-force cosine neighbours of every row, self excluded, padded with -1 where there are too few rows."""
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-8)
    scores = unit @ unit.T
    np.fill_diagonal(scores, -np.inf)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    top = np.take_along_axis(scores, order, axis=1)
    pad = ((0, 0), (0, K - order.shape[1]))
    order, top = np.pad(order, pad, constant_values=-1), np.pad(top, pad, constant_values=-np.inf)
    return np.where(np.isfinite(top), order, -1), top


def measures(counts: NDArray[np.int64]) -> dict[str, Any]:
    """What `hubness.json` says of a graph with this k-occurrence; undefined measures come as NaN, as they do there."""
    n, total = len(counts), max(int(counts.sum()), 1)
    occurrence, rows = np.unique(counts, return_counts=True)
    spread = counts.std() if n else 0.0
    skewness = float(((counts - counts.mean()) ** 3).mean() / spread**3) if spread > 0 else float("nan")
    return {
        "n": n,
        "k": K,
        "metric": "cosine",
        "skewness": skewness,
        "robin_hood": float(np.abs(counts - K).sum() / 2 / total),
        "gini": float(np.abs(counts[:, None] - counts[None, :]).sum() / (2 * max(n, 1) * total)),
        "atkinson": 0.25,
        "antihub_share": float((counts == 0).mean()) if n else float("nan"),
        "hub_share": float((counts >= 2 * K).mean()) if n else float("nan"),
        "hub_occurrence": float(counts[counts >= 2 * K].sum() / total),
        "max_k_occurrence": int(counts.max()) if n else 0,
        "groupie_ratio": float(counts.max() / (K * n)) if n else float("nan"),
        "histogram": {"k_occurrence": occurrence.tolist(), "rows": rows.tolist()},
    }


@dataclass
class Sample:
    """An output folder and the arrays it was written from."""

    folder: Path
    ids: list[RowId]
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    found: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)

    def save(self) -> None:
        (self.folder / "run.json").write_text(json.dumps(self.run), encoding="utf-8")

    def edit(self, stage: str, file: str, **changes: Any) -> None:
        path = self.folder / stage / "_artifact" / file
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    def hubness(self, stage: str) -> dict[str, Any]:
        path = self.folder / stage / "_artifact" / "hubness.json"
        return dict(json.loads(path.read_text(encoding="utf-8")))


def write_hubness(sample: Sample, stage: str, vectors: NDArray[np.float64], column: str) -> None:
    """Shards and artifacts of one hubness stage."""
    found, scores = nearest(vectors)
    n, ids = len(vectors), sample.ids
    id_type = pa.int64() if ids and isinstance(ids[0], int) else pa.string()
    counts = np.bincount(found[found >= 0].ravel(), minlength=n).astype(np.int64)
    sample.counts[stage], sample.found[stage] = counts, found
    artifact = sample.folder / stage / "_artifact"
    artifact.mkdir(parents=True)
    facts = {"k": K, "metric": "cosine", "reduction": "none", "column": column, "seconds": 0.5}
    facts |= {"mean_cosine": 0.4375 if column == "embedding" else 0.03125, "raw": measures(counts), "reduced": None}
    (artifact / "hubness.json").write_text(json.dumps(facts), encoding="utf-8")
    starts = np.linspace(0, n, SHARDS + 1).astype(int)
    shard = np.searchsorted(starts[1:], np.arange(n), side="right")
    top, never = np.argsort(-counts, kind="stable")[:50], np.flatnonzero(counts == 0)[:50]
    place = {"shard": shard.astype(np.int32), "row": (np.arange(n) - starts[shard]).astype(np.int32)}
    for name, rows in (("top_hubs", top), ("antihubs", never)):
        columns = {"id": pa.array([ids[row] for row in rows], id_type), **{key: place[key][rows] for key in place}}
        if name == "top_hubs":
            columns["k_occurrence"] = pa.array(counts[rows], pa.int32())
            columns["rank"] = pa.array(range(1, len(rows) + 1), pa.int32())
        pq.write_table(pa.table(columns), artifact / f"{name}.parquet")
    for number in range(SHARDS):
        rows = np.arange(starts[number], starts[number + 1])
        neighbours = pa.array([ids[row] if row >= 0 else None for row in found[rows].ravel()], id_type)
        close = pa.array([float(score) if np.isfinite(score) else None for score in scores[rows].ravel()], pa.float32())
        columns = {
            "id": pa.array([ids[row] for row in rows], id_type),
            "neighbor_ids": pa.FixedSizeListArray.from_arrays(neighbours, K),
            "neighbor_scores": pa.FixedSizeListArray.from_arrays(close, K),
            "k_occurrence": pa.array(counts[rows], pa.int32()),
            "is_hub": counts[rows] >= 2 * K,
            "is_antihub": counts[rows] == 0,
        }
        pq.write_table(pa.table(columns), sample.folder / stage / f"part-{number:05d}.parquet", row_group_size=7)


def write_spectrum(folder: Path, n: int, vectors: NDArray[np.float64]) -> None:
    """Artifact of the whiten stage."""
    eigenvalues = np.linalg.svd(vectors - vectors.mean(0), compute_uv=False) ** 2 / n if n else np.zeros(0)
    total = max(float(eigenvalues.sum()), 1e-300)
    spectrum = {
        "n": n,
        "dim": 4,
        "eigenvalues": eigenvalues.tolist(),
        "effective_rank": 5.5,
        "explained_share": (np.cumsum(eigenvalues) / total).tolist(),
        "beta": 1.0,
        "gamma": 0.75,
        "mean_cosine": 0.4375,
        "drift": {"score": 0.125, "mean_shift": 0.0625, "frechet": 3.5, "rows_pinned": 17, "rows_now": n},
    }
    (folder / "_artifact").mkdir(parents=True)
    (folder / "_artifact" / "spectrum.json").write_text(json.dumps(spectrum), encoding="utf-8")


def write_quarantine(folder: Path, stage: str, errors: Sequence[str], message: str) -> None:
    """One quarantined row for each error named."""
    (folder / "_kxbatch" / "quarantine").mkdir(parents=True)
    for part in (0, 1):
        rows = [at for at in range(len(errors)) if at % 2 == part]
        columns = {
            "run": ["r1"] * len(rows),
            "stage": [stage] * len(rows),
            "shard": pa.array([0] * len(rows), pa.int32()),
            "row": pa.array(rows, pa.int64()),
            "id": [f"bad-{at}" for at in rows],
            "error": [errors[at] for at in rows],
            "message": [f"{message} {at}" for at in rows],
            "raw": [f"raw {at}" for at in rows],
        }
        pq.write_table(pa.table(columns), folder / "_kxbatch" / "quarantine" / f"part-{part:05d}.parquet")


def write_output(
    folder: Path, n: int = 60, raw: str = "hub-raw", white: str = "hub-white", integer: bool = False
) -> Sample:
    """An output as a run of embed, hubness, whiten, hubness leaves it, on vectors with a large mean."""
    rng = np.random.default_rng(7)
    vectors = rng.normal(size=(n, 12)) * np.linspace(2, 0.2, 12) + 1.5
    sample = Sample(folder, [1000 + at if integer else f"doc-{at:03d}" for at in range(n)])
    folder.mkdir(parents=True)
    write_hubness(sample, raw, vectors, "embedding")
    write_hubness(sample, white, (vectors - 1.5) / np.linspace(2, 0.2, 12), "whitened")
    write_spectrum(folder / "whiten", n, vectors)
    kinds = {"embed": "embed", raw: "hubness", "whiten": "whiten", white: "hubness"}
    units = [{"key": str(at), "seconds": 0.5 + at, "rows": n // 3, "worker": "w", "reused": at == 0} for at in range(3)]
    facts = {
        "shards": 3,
        "failed": 2,
        "note": "first fit",
        "rows_in": n,
        "rows_out": n,
        "rows_quarantined": 0,
        "seconds": 4.75,
    }
    sample.run = {
        "job": {
            "name": "audit",
            "seed": 3,
            "output": "https://example.org/bucket",
            "stage": [{"kind": kind, "name": name, "input": None} for name, kind in kinds.items()],
        },
        "status": "done",
        "exit_code": 0,
        "fingerprint": "0123456789abcdef0123456789abcdef",
        "versions": {"kxbatch": "0.1.0", "numpy": "2.9"},
        "started": "2026-01-02T03:04:05Z",
        "seconds": 19.5,
        "stages": [
            {"name": name, "kind": kind, **facts, "rows_per_second": 12.5, "counters": {"pairs": 9}, "units": units}
            for name, kind in kinds.items()
        ],
        "warnings": [],
    }
    sample.save()
    return sample


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """A finished output of 60 rows."""
    return write_output(tmp_path / "out")


def lookup(ids: Sequence[RowId]) -> dict[RowId, str]:
    """Texts for every id."""
    return {identity: f"the text of {identity}" for identity in ids}


def test_tiles_show_the_five_numbers_before_and_after(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder))))
    before, after = sample.hubness("hub-raw"), sample.hubness("hub-white")
    tiles = page.all("div", class_="tile")
    assert [values(tile) for tile in tiles] == [
        [60],
        [before["raw"]["skewness"], after["raw"]["skewness"]],
        [before["raw"]["max_k_occurrence"], after["raw"]["max_k_occurrence"]],
        [before["raw"]["antihub_share"], after["raw"]["antihub_share"]],
        [0.4375, 0.03125],
    ]
    assert "0.438" in tiles[4].text
    assert "none set aside" in tiles[0].text


def test_every_measure_of_the_json_is_in_the_table(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder))))
    shown = values(section(page, "measures"))
    graphs = [sample.hubness(stage)["raw"] for stage in ("hub-raw", "hub-white")]
    wanted = [graph[key] for key in graphs[0] if key not in ("k", "metric", "histogram") for graph in graphs]
    assert Counter(shown) == Counter([*wanted, 0.4375, 0.03125])
    spectrum = json.loads((sample.folder / "whiten/_artifact/spectrum.json").read_text())
    facts = values(section(page, "spectrum-of-1"))
    assert facts == [60, 4, 12, 5.5, 1.0, 0.75, 0.4375, 0.125, 0.0625, 3.5, 17, 60]
    assert f"{100 * spectrum['explained_share'][3]:.1f} %" in section(page, "spectrum-of-1").text


def test_hubs_and_antihubs_come_with_their_counts_in_both_stages(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder)), lookup))
    for kind, most in (("hubs", 10), ("antihubs", 6)):
        cards = section(page, kind).all("div", class_="card")
        for card, (here, there) in zip(cards, [("hub-raw", "hub-white"), ("hub-white", "hub-raw")], strict=True):
            rows = card.all("tr")[1:]
            ids = [row.all("code")[0].text for row in rows]
            at = [sample.ids.index(identity) for identity in ids]
            counts, others = sample.counts[here], sample.counts[there]
            assert [values(row) for row in rows] == [[counts[place], others[place]] for place in at]
            texts = [row.all("span", class_="text")[0].text for row in rows]
            assert texts == [f"the text of {identity}" for identity in ids]
            assert len(rows) == (most if kind == "hubs" else min(most, int((counts == 0).sum())))
            assert ("every row is found" in card.text) == (len(rows) == 0)
    largest = np.sort(sample.counts["hub-raw"])[::-1][:10]
    first = section(page, "hubs").all("table")[0].all("tr")[1:]
    assert [values(row)[0] for row in first] == largest.tolist()


def test_neighbours_before_and_after_are_those_of_the_shards(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder)), lookup))
    articles = section(page, "neighbours").all("article")
    queries = [article.all("p", class_="query")[0].all("code")[0].text for article in articles]
    top = sample.ids[int(np.argmax(sample.counts["hub-raw"]))]
    assert queries == list(dict.fromkeys([top, "doc-015", "doc-030", "doc-045"]))
    for query, article in zip(queries, articles, strict=True):
        at = sample.ids.index(query)
        for stage, side in zip(("hub-raw", "hub-white"), article.all("ol"), strict=True):
            shown = [code.text for code in side.all("code")]
            assert shown == [sample.ids[row] for row in sample.found[stage][at]]
            assert values(side) == sorted(values(side), reverse=True)


def test_texts_are_asked_for_once_each_and_may_be_unknown(tmp_path: Path) -> None:
    sample = write_output(tmp_path / "out", integer=True)
    asked: list[Sequence[RowId]] = []

    def some(ids: Sequence[RowId]) -> dict[RowId, str]:
        asked.append(ids)
        return {identity: "w" * 999 for identity in ids if int(identity) % 2}

    page = parse(build(Folder(str(sample.folder)), some))
    (ids,) = asked
    assert len(set(ids)) == len(ids)
    assert set(ids) <= set(sample.ids)
    codes = {int(code.text) for code in [*section(page, "hubs").all("code"), *section(page, "neighbours").all("code")]}
    assert codes <= set(ids)
    texts = [node.text for node in page.all("span", class_="text")]
    assert texts
    assert all(set(text) == {"w", "…"} and len(text) <= 300 for text in texts)


def test_throughput_lists_stages_and_marks_reused_units(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder))))
    rows = section(page, "throughput").all("table")[0].all("tr")[1:]
    assert [row.all("th")[0].children[0] for row in rows] == ["embed", "hub-raw", "whiten", "hub-white"]
    assert all(values(row) == [3, 2, 1, 3, 60, 60, 0, 4.75, 12.5, 9] for row in rows)
    assert all("first fit" in row.text for row in rows)
    figures = section(page, "throughput").all("figure")
    assert [figure.all("h3")[0].text for figure in figures] == ["embed", "hub-raw", "whiten", "hub-white"]
    assert all("this run 2" in figure.text and "reused 1" in figure.text for figure in figures)


def test_quarantine_is_counted_by_reason(sample: Sample) -> None:
    errors = ["EmptyText"] * 7 + ["TooLong"] * 2 + ["NonFinite"]
    write_quarantine(sample.folder / "embed", "embed", errors, "no good")
    sample.run["stages"][0]["rows_quarantined"] = len(errors)
    sample.save()
    page = parse(build(Folder(str(sample.folder))))
    bars = section(page, "quarantine").all("ul", class_="bars")[0].children
    reasons = [bar for bar in bars if isinstance(bar, Element)]
    shown = {reason.all("b")[0].text: int(values(reason)[0]) for reason in reasons}
    assert shown == Counter(errors)
    assert list(shown) == ["EmptyText", "TooLong", "NonFinite"]
    widths = [str(reason.all("i")[0].attributes["style"]) for reason in reasons]
    assert widths == ["width: 100.00%", "width: 28.57%", "width: 14.29%"]
    assert [code.text for code in reasons[0].all("code")] == ["bad-0", "bad-1", "bad-2"]
    assert "10 set aside" in page.all("div", class_="tile")[0].text


def test_hostile_words_are_shown_and_never_act(tmp_path: Path) -> None:
    stage = HOSTILE.replace("/", "|")  # the name of a folder
    sample = write_output(tmp_path / "out", raw=stage)
    sample.ids[:] = [f"{identity}{HOSTILE}" for identity in sample.ids]
    for name in (stage, "hub-white"):
        (sample.folder / name).rename(sample.folder / f"{name}-old")
    rng = np.random.default_rng(1)
    write_hubness(sample, stage, rng.normal(size=(60, 5)) + 1, HOSTILE)
    write_hubness(sample, "hub-white", rng.normal(size=(60, 5)), HOSTILE)
    write_quarantine(sample.folder / "embed", HOSTILE, [HOSTILE], HOSTILE)
    sample.run["job"]["name"] = HOSTILE
    sample.run["job"]["input"] = {"path": HOSTILE}
    sample.run |= {"status": HOSTILE, "warnings": [HOSTILE], "versions": {HOSTILE: HOSTILE}, "started": HOSTILE}
    sample.run["fingerprint"] = HOSTILE
    sample.run["stages"][0] |= {"kind": HOSTILE, "counters": {HOSTILE: 1}}
    sample.save()
    page = parse(build(Folder(str(sample.folder)), lambda ids: dict.fromkeys(ids, f"{HOSTILE}\x00\x1b[31m\ud800")))
    assert page.all("h1")[0].text == HOSTILE
    assert page.all("title")[0].text == f"{HOSTILE} · kxbatch report"
    for place in ("warnings", "throughput", "quarantine", "hubs", "neighbours", "job"):
        assert HOSTILE in section(page, place).text, place
    assert stage in section(page, "hubness").text
    assert json.loads(section(page, "job").all("pre")[0].text)["input"]["path"] == HOSTILE
    raw = (sample.folder / "report.html").read_bytes()
    assert b"<script" not in raw
    assert b"<img" not in raw
    assert (
        b"49" not in re.sub(rb"[\d.]*49[\d.]*", lambda hit: b"" if hit[0] != b"49" else hit[0], raw)
        or b"{{7*7}}" in raw
    )
    assert not re.search(rb"[\x00-\x08\x1b]", raw)


def test_the_same_output_gives_the_same_bytes_anywhere(sample: Sample, tmp_path: Path) -> None:
    first = Path(build(Folder(str(sample.folder))).path).read_bytes()
    settings = tmp_path / "matplotlibrc"
    settings.write_text("font.size: 30\nlines.linewidth: 9\nsvg.fonttype: path\n", encoding="utf-8")
    code = f"from kxbatch.data.storage import Folder; from kxbatch.report import build; build(Folder({str(sample.folder)!r}))"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "MATPLOTLIBRC": str(settings), "TZ": f"UTC{seed}"}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        assert (sample.folder / "report.html").read_bytes() == first
    assert sorted(path.name for path in sample.folder.iterdir() if path.is_file()) == ["report.html", "run.json"]


def test_figures_have_axes_in_words_and_no_two_share_an_id(sample: Sample) -> None:
    page = parse(build(Folder(str(sample.folder))))
    figures = page.all("figure")
    assert len(figures) == 3 + 2 + 4
    for figure in figures:
        (svg,) = figure.all("svg")
        assert svg.attributes["aria-label"]
        assert len([text for text in svg.all("text") if re.search("[a-z]{4}", text.text)]) >= 1
        assert figure.all("p", class_="note")


@pytest.mark.parametrize(
    ("lost", "gone"),
    [
        ([], {"quarantine"}),
        (["whiten/_artifact/spectrum.json"], {"quarantine", "spectrum-of-1"}),
        (
            ["hub-raw/_artifact/hubness.json", "hub-white/_artifact/hubness.json"],
            {"quarantine", "measures", "hubs", "antihubs", "neighbours"},
        ),
        (["*/_artifact/top_hubs.parquet"], {"quarantine", "hubs"}),
        (["*/_artifact/antihubs.parquet"], {"quarantine", "antihubs"}),
        (["*/part-*.parquet"], {"quarantine", "neighbours"}),
    ],
)
def test_a_section_without_its_file_does_not_appear(sample: Sample, lost: list[str], gone: set[str]) -> None:
    for name in lost:
        files = list(sample.folder.glob(name))
        assert files
        for file in files:
            file.unlink()
    shown = {str(node.attributes.get("id")) for node in parse(build(Folder(str(sample.folder)))).all("section")}
    assert SECTIONS - shown == gone


def test_a_stage_that_is_not_finished_leaves_the_other_alone(sample: Sample) -> None:
    (sample.folder / "hub-white/_artifact/hubness.json").unlink()
    page = parse(build(Folder(str(sample.folder))))
    assert len(section(page, "hubs").all("table")) == 1
    assert [len(values(tile)) for tile in page.all("div", class_="tile")] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        ("failed", 3, "did not end well: status failed, exit code 3"),
        ("failed", 4, "quarantine budget"),
        ("interrupted", 130, "interrupted"),
        ("running", None, "has not ended: status running"),
    ],
)
def test_a_run_that_failed_says_so_on_top(sample: Sample, status: str, code: int | None, words: str) -> None:
    sample.run |= {"status": status, "exit_code": code, "message": "mend & run again"}
    sample.save()
    page = parse(build(Folder(str(sample.folder))))
    (banner,) = page.all("div", class_="banner")
    assert words in banner.text
    assert "mend & run again" in banner.text
    main = page.all("main")[0]
    assert next(child for child in main.children if isinstance(child, Element)) is banner


def test_a_run_that_failed_before_its_first_row_has_a_report(tmp_path: Path) -> None:
    run = {"job": {"name": "early"}, "status": "failed", "exit_code": 1, "stages": [], "warnings": ["no <disk>"]}
    failure = {"phase": "embed", "error": "OSError", "message": HOSTILE, "attempts": 2}
    run["failures"] = [{**failure, "key": f"part-{at:05d}"} for at in range(30)]
    (tmp_path / "run.json").write_text(json.dumps(run), encoding="utf-8")
    page = parse(build(Folder(str(tmp_path))))
    assert "no <disk>" in section(page, "warnings").text
    assert len(section(page, "failures").all("li")) == 21
    assert "OSError embed part-00003 after 2 attempts" in section(page, "failures").text
    assert "and 10 more" in section(page, "failures").text
    assert not page.all("div", class_="tile")
    assert not page.all("svg")


@pytest.mark.parametrize("n", [0, 1, 2, 3, 6])
def test_tiny_corpora_have_a_report(tmp_path: Path, n: int) -> None:
    sample = write_output(tmp_path / "out", n=n)
    page = parse(build(Folder(str(sample.folder)), lookup))
    rows, skewness = page.all("div", class_="tile")[:2]
    assert values(rows) == [n]
    if n < 2:
        assert skewness.text.count("–") == 2
    shown = [len(side.all("li")) for side in page.all("ol", class_="found")]
    assert all(count == min(K, n - 1) for count in shown)  # padding is not shown
    assert "nan" not in (sample.folder / "report.html").read_text(encoding="utf-8").lower().replace("finance", "")


def test_a_reduction_is_compared_with_the_raw_graph_of_its_stage(sample: Sample) -> None:
    (sample.folder / "hub-raw/_artifact/hubness.json").unlink()
    reduced = {**sample.hubness("hub-white")["raw"], "skewness": 0.0625, "max_k_occurrence": 5}
    sample.edit("hub-white", "hubness.json", reduction="csls", reduced=reduced)
    page = parse(build(Folder(str(sample.folder))))
    raw = sample.hubness("hub-white")["raw"]
    tiles = page.all("div", class_="tile")
    assert values(tiles[1]) == [raw["skewness"], 0.0625]
    assert values(tiles[2]) == [raw["max_k_occurrence"], 5]
    assert values(tiles[4]) == [0.4375, 0.03125]  # what the whiten stage reads, then what was audited
    assert "hub-white + csls" in section(page, "measures").text


def test_an_audit_without_usable_rows_has_no_measures(sample: Sample) -> None:
    for stage in ("hub-raw", "hub-white"):
        sample.edit(stage, "hubness.json", raw=None, mean_cosine=None)
    page = parse(build(Folder(str(sample.folder))))
    assert not [node for node in page.walk() if node.attributes.get("id") == "measures"]
    assert [tile.all("h2")[0].text for tile in page.all("div", class_="tile")] == ["Rows", "Mean cosine"]


def test_rows_are_those_of_the_input_when_the_run_says_so(sample: Sample) -> None:
    sample.run["input"] = {"files": 2, "rows": 64}
    sample.save()
    assert values(parse(build(Folder(str(sample.folder)))).all("div", class_="tile")[0]) == [64]


def test_an_audit_of_the_raw_vectors_alone_has_one_mean_cosine(sample: Sample) -> None:
    (sample.folder / "hub-white/_artifact/hubness.json").unlink()
    assert values(parse(build(Folder(str(sample.folder)))).all("div", class_="tile")[4]) == [0.4375]


def test_a_folder_that_no_run_wrote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no run\.json here"):
        build(Folder(str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named_and_the_old_page_stays(sample: Sample) -> None:
    old = Path(build(Folder(str(sample.folder))).path).read_bytes()
    sample.edit("whiten", "spectrum.json", eigenvalues="many")
    with pytest.raises(DataError, match=r"spectrum\.json: eigenvalues: "):
        build(Folder(str(sample.folder)))
    (sample.folder / "whiten/_artifact/spectrum.json").write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match=r"spectrum\.json: the file: Invalid JSON"):
        build(Folder(str(sample.folder)))
    (sample.folder / "whiten/_artifact/spectrum.json").unlink()
    (sample.folder / "hub-raw/_artifact/top_hubs.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match=r"top_hubs\.parquet: damaged"):
        build(Folder(str(sample.folder)))
    pq.write_table(pa.table({"id": ["a"]}), sample.folder / "hub-raw/_artifact/top_hubs.parquet")
    with pytest.raises(DataError, match=r"top_hubs\.parquet: no column rank, k_occurrence, shard"):
        build(Folder(str(sample.folder)))
    assert (sample.folder / "report.html").read_bytes() == old
    assert list(sample.folder.glob("*.tmp")) == list(sample.folder.glob(".*.tmp")) == []


def test_the_entry_point_loads_nothing_heavy() -> None:
    code = (
        "import sys, kxbatch.report; "
        "print([name for name in ('matplotlib', 'jinja2', 'pyarrow', 'pydantic', 'numpy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
