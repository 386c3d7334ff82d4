"""The pass over the rows of a density stage: counts add up, extremes are exact, and batches do not matter."""

from __future__ import annotations

import io
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from density_outputs import Densities, columns
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin
from sklearn.metrics import roc_auc_score

from kxbatch.data.storage import Folder
from kxbatch.report import density_agreement, density_rows, density_survey
from kxbatch.report.density_rows import Thinned
from kxbatch.report.density_survey import survey
from kxbatch.report.pictures import LARGEST, picture

LOG_DENSITIES = st.lists(
    st.one_of(st.floats(-1e6, 100), st.sampled_from([-1e300, 0.0, -5.0, float("inf"), float("-inf"), float("nan")])),
    min_size=1,
    max_size=60,
)


def stage(folder: Path, values: dict[str, object], shards: int = 3) -> Folder:
    outputs = Densities(folder)
    outputs.stage("density", values, shards=shards)
    return Folder(str(folder / "density"))


@settings(max_examples=60, deadline=None)
@given(LOG_DENSITIES, st.integers(0, 2**60))
def test_counts_add_up_and_the_lowest_are_the_lowest(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], labels: int
) -> None:
    rows = columns(len(values))
    rows["log_density"] = np.asarray(values)
    rows["odd"] = np.array([bool(labels >> at & 1) for at in range(len(values))])
    found = survey(stage(tmp_path_factory.mktemp("s"), rows), "odd")
    assert found is not None
    known = ~np.isnan(rows["log_density"])
    assert (found.rows, found.finite) == (len(values), int(np.isfinite(values).sum()))
    assert [row.log_density for row in found.lowest] == sorted(rows["log_density"][known])[:12]
    if found.histogram is None:
        assert not found.finite
    else:
        odd = rows["odd"][known]
        assert found.histogram.rows.sum(axis=1).tolist() == [int((~odd).sum()), int(odd.sum())]
        assert np.all(np.diff(found.histogram.edges) >= 0)
    assert found.ess is not None
    assert found.ess.counts.sum() == found.ess.rows == len(values)
    assert found.percentiles is not None
    assert found.percentiles[-1] == len(values)


def test_the_histogram_is_numpys_and_stays_readable_beside_an_extreme_row(tmp_path: Path) -> None:
    rows = columns(3000)
    rows["log_density"][17] = -1e9
    found = survey(stage(tmp_path, rows))
    assert found is not None
    assert found.histogram is not None
    values, edges = rows["log_density"], found.histogram.edges
    wanted = np.histogram(values[values > -1e8], edges)[0]
    wanted[0] += found.histogram.below
    np.testing.assert_array_equal(found.histogram.rows[0], wanted)
    assert (found.histogram.below, found.histogram.above) == (1, 0)
    assert edges[-1] == values.max()
    assert (found.histogram.rows[0] > 0).sum() > 5


def test_percentiles_and_effective_samples_are_counted(tmp_path: Path) -> None:
    rows = columns(2000, seed=2)
    rows["ess"] = np.exp(np.random.default_rng(0).uniform(0, np.log(500), 2000)).astype(np.float32)
    found = survey(stage(tmp_path, rows))
    assert found is not None
    assert found.ess is not None
    assert found.percentiles is not None
    assert found.ess.few == int((rows["ess"] < 10).sum())
    assert found.ess.mean == pytest.approx(float(rows["ess"].mean(dtype=np.float64)))
    np.testing.assert_array_equal(found.ess.counts, np.histogram(rows["ess"], density_survey.ESS_EDGES)[0])
    for at in (0, 10, 333, 500, 1000):
        assert found.percentiles[at] == int((rows["density_percentile"] <= at / 10 + 1e-4).sum())


def test_neither_batches_nor_parts_change_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = columns(200, outliers=20)
    whole = survey(stage(tmp_path / "whole", rows, 1), "odd")
    monkeypatch.setattr(density_rows, "BATCH", 11)
    cut = survey(stage(tmp_path / "cut", rows, 7), "odd")
    assert whole is not None
    assert cut is not None
    assert [row.id for row in cut.shown] == [row.id for row in whole.shown]
    assert cut.ranking == whole.ranking
    assert cut.histogram is not None
    assert whole.histogram is not None
    np.testing.assert_array_equal(cut.histogram.rows, whole.histogram.rows)


def test_a_large_corpus_is_ranked_and_compared_by_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(density_survey, "MOST_RANKED", 100)
    monkeypatch.setattr(density_agreement, "MOST_COMPARED", 100)
    rows = columns(450, outliers=90)
    rows["odd"] = rows["odd"][::-1]
    outputs = Densities(tmp_path)
    for name in ("a", "b"):
        outputs.stage(name, rows)
    found = survey(Folder(str(tmp_path / "a")), "odd")
    assert found is not None
    assert found.ranking is not None
    assert (found.ranking.rows, found.ranking.outliers, found.ranking.every) == (450, 90, 8)
    assert found.ranking.auroc == pytest.approx(roc_auc_score(rows["odd"][::8], rows["density_score"][::8]))
    (agreed,) = density_agreement.read_agreements(Folder(str(tmp_path)), ["a", "b"])
    assert (agreed.rows, agreed.every, agreed.spearman, agreed.overlap) == (57, 8, pytest.approx(1.0), 1.0)


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 50))
def test_thinning_keeps_every_nth_row_of_all(sizes: list[int], most: int) -> None:
    everything = np.arange(sum(sizes), dtype=np.float64)
    thinned = Thinned(1, most)
    for part in np.split(everything, np.cumsum(sizes)[:-1]) if sizes else []:
        thinned.add(part[:, None])
    assert len(thinned.rows) <= most
    np.testing.assert_array_equal(thinned.rows[:, 0], everything[:: thinned.every])
    assert thinned.every == 1 or len(everything) / (thinned.every / 2) > most


def pixels(address: str | None) -> Image.Image:
    assert address is not None
    return Image.open(io.BytesIO(b64decode(address.partition(",")[2])))


def written(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_png_files_of_every_mode_are_drawn(mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8))
    else:
        image = Image.radial_gradient("L").resize((8, 6)).convert(mode)
    drawn = pixels(picture(written(image)))
    assert drawn.size == (8, 6)
    assert len(set(np.asarray(drawn.convert("L")).ravel())) > 1


def test_a_picture_is_small_and_brings_nothing_along() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", "secret note")
    data = written(Image.effect_noise((700, 300), 80), pnginfo=notes)
    address = picture(data)
    drawn = pixels(address)
    assert max(drawn.size) == LARGEST
    assert not drawn.info
    assert address is not None
    assert b"secret" not in b64decode(address.partition(",")[2])


def test_a_picture_too_large_to_decode_is_none() -> None:
    assert picture(written(Image.new("1", (20_000, 20_000)))) is None


def test_lists_are_drawn_by_their_levels() -> None:
    colours = np.arange(2 * 3 * 3) % 5
    drawn = np.asarray(pixels(picture(colours.tolist(), [2, 3, 3], 5)))
    np.testing.assert_array_equal(drawn, np.rint(colours * 255 / 4).reshape(2, 3, 3))
    shades = np.asarray(pixels(picture([0.0, 0.5, 1.0, 0.25], [2, 2])))
    np.testing.assert_array_equal(shades, [[0, 128], [255, 64]])
    assert np.asarray(pixels(picture([0, 300], [1, 2, 1], 17))).max() == 255
    for value in (None, [], "text", {"bytes": b""}, [[1, 2], [3]], [float("inf")] * 4, 7.5):
        assert picture(value, [2, 2, 1], 17) is None
