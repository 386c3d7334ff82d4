"""Density stages on the report page: its numbers are those of the rows, and what is absent or hostile harms nothing."""

from __future__ import annotations

import io
import json
import math
import re
from base64 import b64decode
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from density_outputs import LATENT, Densities, columns, facts
from PIL import Image
from scipy.stats import spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score

import kxbatch as kx
from kxbatch.errors import DataError

HOSTILE = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>{{7*7}}"
FIGURES = ["Log probability", "Calibration", "Effective samples", "Convergence", "Latent dimensions", "Code length"]


class Page(HTMLParser):
    """What the tests ask of a page: tags, attributes, table rows with their numbers, pictures, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.html, self.words = html, ""
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.pictures: list[str] = []
        self.rows: list[tuple[str, list[float]]] = []
        self._values: list[float] = []
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag == "tr":
            self._start, self._values = len(self.words), []
        if tag == "data":
            self._values.append(float(dict(attrs)["value"] or "nan"))
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "tr":
            self.rows.append((" ".join(self.words[self._start :].split()), self._values))
            self._values = []

    def handle_data(self, data: str) -> None:
        self.words += data

    @property
    def figures(self) -> list[str]:
        """Titles of the figures, in order."""
        return re.findall(r"<figcaption>\s*<h3>(.*?)</h3>", self.html)

    def list_of(self, title: str) -> list[tuple[str, list[float]]]:
        """Rows of the only list with this title."""
        table = re.findall(rf"<h3>{title}</h3>.*?</table>", self.html, flags=re.DOTALL)
        return Page(table[0]).rows[1:] if table else []

    def shown(self, title: str) -> list[tuple[str, float]]:
        """Id and log density of the rows in a list."""
        return [
            (match[0], values[0]) for words, values in self.list_of(title) if (match := re.search(r"row-\d+", words))
        ]


@pytest.fixture
def outputs(tmp_path: Path) -> Densities:
    return Densities(tmp_path / "out")


def png(pixels: Any, **options: Any) -> bytes:
    """A PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(buffer, format="PNG", **options)
    return buffer.getvalue()


def opened(address: str) -> Image.Image:
    """The picture in an address."""
    assert address.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(b64decode(address.partition(",")[2])), formats=("PNG",))


def test_every_figure_is_there_and_the_numbers_are_those_of_the_rows(outputs: Densities) -> None:
    values = columns(400)
    outputs.stage("density", values, facts())
    page = Page(outputs.html())
    assert page.figures == FIGURES
    mean = float(np.mean(values["log_density"]))
    shown = [float(value) for value in re.findall(r'<data value="([^"]+)"', page.html)]
    for number in (mean, -mean / (64 * math.log(2)), -82.1, 14.2, 400):
        assert any(value == pytest.approx(number, abs=1e-9) for value in shown), number
    assert "held-out rows, without the bits of the model itself" in page.words
    assert "Nalisnick et al., 2019" in page.words
    assert 'score = "typicality"' in page.words
    assert "Few samples carry" not in page.words
    assert "posterior collapse" not in page.words
    assert "3 of 4 units active" in page.words
    assert "AUROC" not in page.words
    assert 'class="warnings"' not in page.html
    assert "img-src" not in page.html


def test_the_lowest_rows_are_the_lowest_and_the_typical_are_at_the_median(outputs: Densities) -> None:
    values = columns(500, seed=3)
    outputs.stage("density", values, facts(), shards=5)
    page = Page(outputs.html())
    log_density = values["log_density"]
    lowest = np.argsort(log_density)[:12]
    assert page.shown("Lowest rows") == [(values["id"][at], log_density[at]) for at in lowest]
    _, numbers = page.list_of("Lowest rows")[0]
    assert numbers == [
        log_density[lowest[0]],
        values["density_stderr"][lowest[0]],
        pytest.approx(values["density_percentile"][lowest[0]]),
    ]
    middle = np.argsort(np.abs(log_density - np.median(log_density)))[:6]
    assert [name for name, _ in page.shown("Typical rows")] == [values["id"][at] for at in middle]


def test_labels_give_auroc_precision_and_two_groups(outputs: Densities) -> None:
    values = columns(600, outliers=40)
    values["density_score"] = np.round(values["density_score"], -1)  # ties
    outputs.stage("density", values, facts(labels="odd"))
    page = Page(outputs.html())
    area = roc_auc_score(values["odd"], values["density_score"])
    precision = average_precision_score(values["odd"], values["density_score"])
    shown = [float(value) for value in re.findall(r'<data value="([^"]+)"', page.html)]
    for measure in (area, precision):
        assert any(value == pytest.approx(measure, abs=1e-12) for value in shown)
    assert re.search(r"AUROC 0\.\d{4} of the known outliers", page.words)
    assert "other rows 560" in page.words
    assert "known outliers 40" in page.words
    assert "known outlier" in page.list_of("Lowest rows")[0][0]


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (pa.array([0, 1] * 30), "30 of 60"),
        (pa.array([0.0, 1.0, None] * 20), "20 of 40"),
        (pa.array([None] * 60, pa.bool_()), None),
        (pa.array(["yes"] * 60), None),
    ],
)
def test_labels_of_other_kinds(outputs: Densities, labels: pa.Array, told: str | None) -> None:
    outputs.stage("density", columns(60) | {"odd": labels}, facts(labels="odd"))
    page = Page(outputs.html())
    assert ("AUROC" in page.words) is (told is not None)
    assert told is None or f"Known outliers{told}" in page.words.replace("\n", "").replace(
        "Known outliers ", "Known outliers"
    )


def test_few_effective_samples_and_a_collapse_are_warned_of(outputs: Densities) -> None:
    values = columns(200)
    values["ess"] = np.where(np.arange(200) < 30, 2.5, 80.0).astype(np.float32)
    outputs.stage("density", values, facts(latent={**LATENT, "active": 1}))
    page = Page(outputs.html())
    assert "Few samples carry the estimate: 15 % of the rows" in page.words.replace("\u202f", " ")
    assert "Only 1 of 4 latent dimensions are in use" in page.words


def test_stages_are_compared_over_the_rows_that_both_have(outputs: Densities) -> None:
    rng = np.random.default_rng(5)
    first = columns(300, seed=1)
    second = columns(300, seed=1)
    second["log_density"] = first["log_density"] + rng.normal(0, 8, 300)
    rows = pa.table(second)
    outputs.stage("iwae", first, facts(labels="odd"), shards=3)
    outputs.stage("gaussian", None, facts(estimator="gaussian", samples=None, convergence=[], latent=None))
    for number in range(3):  # the second has a part's rows in another order, and not all of them
        part = rows.slice(100 * number, 100).take(rng.permutation(100)[:90])
        pq.write_table(part, outputs.folder / "gaussian" / f"part-{number:05d}.parquet")
    page = Page(outputs.html())
    written = [pq.read_table(path).to_pydict() for path in sorted((outputs.folder / "gaussian").glob("part-*"))]
    known = {row: value for part in written for row, value in zip(part["id"], part["log_density"], strict=True)}
    both = [(a, known[row]) for row, a in zip(first["id"], first["log_density"], strict=True) if row in known]
    (numbers,) = [numbers for words, numbers in page.rows if words.startswith("iwae and gaussian")]
    assert numbers[:2] == [270, pytest.approx(spearmanr(*zip(*both, strict=True)).statistic)]
    order = [np.argsort(side)[:3] for side in np.asarray(both).T]
    assert numbers[2] == pytest.approx(len(np.intersect1d(*order)) / 3)
    assert page.html.count("<details") >= 2
    assert len([words for words, _ in page.rows if re.match(r"(iwae|gaussian) ?(iwae|gaussian) ?nll", words)]) == 2


def bound(**changes: Any) -> dict[str, Any]:
    """`density.json` of a diffusion model."""
    steps = [{"first": 2, "last": 2, "steps": 1, "bits": 1.25}, {"first": 3, "last": 20, "steps": 18, "bits": 0.5}]
    terms = {"prior": 0.01, "steps": steps, "decoder": 0.375}
    known = {"estimator": "diffusion", "likelihood": None, "samples": 1, "convergence": [], "latent": None}
    return facts() | known | {"bound": terms} | changes


def test_the_terms_of_a_bound_are_shown_with_their_sums(outputs: Densities) -> None:
    values = columns(400)
    del values["ess"]
    outputs.stage("density", values, bound())
    page = Page(outputs.html())
    assert page.figures == ["Lower bound of log p", "Calibration", "Code length", "Terms of the bound"]
    assert "the steps together 1.75" in page.words
    assert (
        "With 0.375 from the first time to the data and 0.01 for the last time, 2.13 bits a value: an upper"
        in page.words
    )
    assert "diffusion, 1 draw" in page.words
    assert "draws" not in page.words
    assert "upper bound, mean of all rows, density" in page.words
    assert "it is longer than that of the model itself" in page.words


@pytest.mark.parametrize(
    "terms",
    [
        None,
        {"steps": []},
        {"steps": [{"first": 2, "last": 2, "bits": 0.0}]},
        {"steps": [{"first": 2, "last": 3, "bits": None}]},
    ],
)
def test_a_bound_without_steps_has_no_figure(outputs: Densities, terms: Any) -> None:
    outputs.stage("density", columns(40), bound(bound=terms, discrete=False))
    assert "Terms of the bound" not in Page(outputs.html()).figures


def test_a_bound_of_real_numbers_is_told_in_the_units_of_the_model(outputs: Densities) -> None:
    terms = {"prior": None, "steps": [{"first": 2, "last": 2, "bits": 0.5}], "decoder": -2.0}
    outputs.stage("density", columns(40), bound(bound=terms, discrete=False, levels=None, compression=None))
    words = Page(outputs.html()).words
    assert (
        "With −2 from the first time to the data and – for the last time, −1.5 bits a value in the units of the model"
        in words
    )
    assert "lower bound, density" in words


def test_texts_are_asked_for_once_with_the_ids_that_are_shown(outputs: Densities) -> None:
    asked: list[Sequence[Any]] = []

    def texts(ids: Sequence[Any]) -> dict[Any, str]:
        asked.append(ids)
        return {row: f"the text of {row}" for row in ids}

    for name in ("a", "b"):
        outputs.stage(name, columns(100, seed=ord(name), ids=range(100)), facts())
    page = Page(outputs.html(texts))
    assert len(asked) == 1
    assert len(asked[0]) == len(set(asked[0])) <= 36
    assert all(f"the text of {row}" in page.words for row in asked[0])


@pytest.mark.parametrize("kind", ["png", "list", "fixed"])
def test_pictures_are_those_of_the_rows(outputs: Densities, kind: str) -> None:
    values = columns(40)
    pixels = np.random.default_rng(0).integers(0, 17, (40, 8, 8))
    grey = np.rint(pixels * 255 / 16).astype(np.uint8)
    flat = pixels.reshape(40, 64)
    values["image"] = {
        "png": [png(one) for one in grey],
        "list": pa.array(flat.tolist(), pa.list_(pa.int64())),
        "fixed": pa.FixedSizeListArray.from_arrays(pa.array(flat.ravel(), pa.float32()), 64),
    }[kind]
    outputs.stage("density", values, facts(shape=[8, 8, 1]))
    page = Page(outputs.html())
    assert "img-src data:" in page.html
    order = [*np.argsort(values["log_density"])[:12]]
    assert len(page.pictures) == 18
    for address, row in zip(page.pictures, order, strict=False):
        np.testing.assert_array_equal(np.asarray(opened(address)), grey[row])


def test_broken_pictures_are_left_out(outputs: Densities) -> None:
    whole = png(np.eye(9) * 255)
    broken = [b"", b"GIF89a", whole[:40], whole[:-20], whole.replace(b"IDAT", b"IDAX"), None, HOSTILE.encode(), whole]
    values = columns(len(broken))
    values["log_density"] = np.arange(len(broken), dtype=float)
    values["image"] = pa.array(broken, pa.binary())
    outputs.stage("density", values, facts(shape=[9, 9, 1]))
    page = Page(outputs.html())
    assert len(set(page.pictures)) == 1
    assert len(page.shown("Lowest rows")) == len(broken)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": None},
        {"shape": [3, -1, 1], "levels": 1},
        {"shape": [10**9, 10**9, 3]},
        {"shape": [8, 8, 1], "columns": ["id"]},
        {"shape": [1, 1, 1], "columns": ["log_density"]},
        {"shape": [1, 3, 1], "columns": []},
    ],
)
def test_an_image_that_does_not_fit_has_no_picture(outputs: Densities, changes: dict[str, Any]) -> None:
    values = columns(20)
    values["image"] = pa.array([[1.0, float("nan"), 2.0]] * 20)
    outputs.stage("density", values, facts(**changes))
    page = Page(outputs.html())
    assert len(page.shown("Lowest rows")) == 12
    assert not page.pictures


def test_files_that_are_kept_beside_vectors_are_shown(outputs: Densities) -> None:
    values = columns(20) | {"photo": pa.array([png(np.eye(5) * 255)] * 20, pa.binary())}
    outputs.stage("density", values, facts(columns=["embedding"], levels=None))
    assert len(Page(outputs.html()).pictures) == 18
    values["other"] = values["photo"]
    outputs.stage("ambiguous", values, facts(columns=["embedding"], levels=None))
    assert len(Page(outputs.html()).pictures) == 18


def test_hostile_ids_texts_and_facts_are_shown_and_never_act(outputs: Densities) -> None:
    values = columns(30, ids=[f"{HOSTILE}{at}" for at in range(30)])
    image = png(np.eye(4) * 255)
    values["image"] = pa.array([image] * 15 + [HOSTILE.encode()] * 15, pa.binary())
    name = HOSTILE.replace("/", "|")
    told = facts(estimator=HOSTILE, likelihood=HOSTILE, columns=[HOSTILE], score=HOSTILE)
    told |= {"labels": HOSTILE}
    for at in range(2):
        outputs.stage(f"{name}{at}", values, told)
    page = Page(outputs.html(lambda ids: dict.fromkeys(ids, HOSTILE)))
    assert "script" not in page.tags
    assert not {attribute for attribute in page.attributes if attribute.startswith("on")}
    assert page.pictures
    assert all(address.startswith("data:image/png;base64,") for address in page.pictures)
    assert page.words.count(HOSTILE) > 60


def test_what_is_absent_is_not_shown(outputs: Densities) -> None:
    bare = {key: value for key, value in columns(50).items() if key in ("id", "log_density")}
    outputs.stage("rows-alone", bare)
    page = Page(outputs.html())
    assert page.figures == ["Log density"]
    assert len(page.shown("Lowest rows")) == 12
    outputs.stage("artifact-alone", None, facts())
    outputs.stage("nothing", None)
    outputs.stage("said-little", bare, {"estimator": "knn"})
    page = Page(outputs.html())
    assert page.figures == ["Log density", *FIGURES[3:], "Log density"]
    assert "nothing" not in page.words.replace("Nothing", "").split("Job and versions")[0]
    assert "nan" not in page.words.lower()


def test_values_that_are_no_numbers(outputs: Densities) -> None:
    values = columns(40)
    values["log_density"][:4] = [-np.inf, np.nan, np.inf, -np.inf]
    values["density_score"] = -values["log_density"]
    values["density_percentile"] = pa.nulls(40, pa.float32())
    values["ess"] = pa.nulls(40, pa.float32())
    outputs.stage("density", values, facts())
    page = Page(outputs.html())
    assert page.figures == [title for title in FIGURES if title not in ("Calibration", "Effective samples")]
    assert page.shown("Lowest rows")[:2] == [("row-00000", -np.inf), ("row-00003", -np.inf)]
    assert "−∞" in page.words
    assert "4 of 40 rows have no finite value" in page.words
    everything = columns(10) | {"log_density": np.full(10, np.nan)}
    outputs.stage("empty", everything, facts())
    outputs.stage("no-rows", columns(0), facts())
    assert "10 of 10 rows have no finite value" in Page(outputs.html()).words


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_few_rows_have_a_page(outputs: Densities, rows: int) -> None:
    values = columns(rows)
    values["log_density"] = np.full(rows, -3.0)
    outputs.stage("a", values, facts(labels="odd", convergence=[{"samples": 1, "mean": -3.0}]), shards=1)
    outputs.stage("b", values, facts(), shards=1)
    page = Page(outputs.html())
    assert "nan" not in page.words.lower()
    assert [numbers for words, numbers in page.rows if words.startswith("a and b")] == [[rows, 1.0]], (
        "all equal: no rank correlation"
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", r"density\.json: the file: Invalid JSON"),
        ('{"dim": 0}', r"density\.json: dim: "),
        ('{"convergence": [{"mean": 1}]}', r"density\.json: convergence\.0\.samples: "),
        ('{"latent": 3}', r"density\.json: latent: "),
    ],
)
def test_a_damaged_artifact_is_named(outputs: Densities, text: str, words: str) -> None:
    outputs.stage("density", columns(20), facts())
    (outputs.folder / "density/_artifact/density.json").write_text(text)
    with pytest.raises(DataError, match=words):
        outputs.html()


def test_a_damaged_part_is_named(outputs: Densities) -> None:
    outputs.stage("density", columns(20), facts())
    part = outputs.folder / "density/part-00001.parquet"
    pq.write_table(pa.table({"id": ["a"], "log_density": ["low"]}), part)
    with pytest.raises(DataError, match=r"part-00001\.parquet: damaged"):
        outputs.html()
    pq.write_table(pa.table({"id": ["a"]}), part)
    with pytest.raises(DataError, match=r"part-00001\.parquet: no column log_density"):
        outputs.html()
    part.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(DataError, match=r"part-00001\.parquet: damaged"):
        outputs.html()


def test_the_page_is_the_same_every_time(outputs: Densities) -> None:
    outputs.stage("density", columns(100, outliers=10), facts(labels="odd"))
    assert outputs.html() == outputs.html()
    assert json.loads((outputs.folder / "run.json").read_text())["status"] == "done"


def test_what_the_stage_itself_writes(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {"name": [f"row-{at}" for at in range(300)], "x": rng.normal(size=300), "y": rng.normal(size=300)}
    rows |= {"odd": np.arange(300) < 12, "image": pa.array([png(np.eye(3) * 255)] * 300, pa.binary())}
    rows["x"][:12] += 6.0
    pq.write_table(pa.table(rows), "data.parquet")
    job = {
        "job": {"name": "densities", "output": "out", "executor": "inline"},
        "input": {"path": ["data.parquet"], "id": "name"},
        "stage": [
            {
                "kind": "density",
                "estimator": "gaussian",
                "columns": ["x", "y"],
                "keep": ["odd", "image"],
                "labels": "odd",
            }
        ],
    }
    assert kx.run(job, quiet=True).exit_code == 0
    page = Page((workplace / "out/report.html").read_text(encoding="utf-8"))
    assert page.figures[:2] == ["Log density", "Calibration"]
    written = pa.concat_tables([pq.read_table(path) for path in sorted((workplace / "out/density").glob("part-*"))])
    lowest = written.sort_by("log_density").slice(0, 12)
    assert page.shown("Lowest rows") == list(
        zip(*lowest.select(["id", "log_density"]).to_pydict().values(), strict=True)
    )
    area = roc_auc_score(written["odd"].to_numpy(), written["density_score"].to_numpy())
    assert f'<data value="{area!r}"' in page.html or f"{area:.3f}" in page.words
    assert len(page.pictures) == 18
