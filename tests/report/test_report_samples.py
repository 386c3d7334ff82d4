"""Samples on the report page: a sheet of the first images, numbers of vectors counted by hand, nothing of what is damaged."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sampling_jobs import done, image_model, job, rows, sample, vector_model

import kxbatch as kx
from kxbatch.data.images import decode, encode
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report.pictures import GAP, contact_sheet
from kxbatch.report.reader import read

pytestmark = pytest.mark.usefixtures("workplace")


def sheet_of(address: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def test_images_stand_side_by_side() -> None:
    image_model()
    done(job(sample(count=70)), report=True)
    page = Path("out/s/report.html").read_text()
    (address,) = re.findall(r'src="(data:image/png;base64,[^"]+)"', page)
    sheet = np.asarray(sheet_of(address))
    assert sheet.shape == (8 * (6 + GAP) - GAP, 8 * (5 + GAP) - GAP, 4)
    ninth = decode(rows()["image"][8])
    assert ninth is not None
    np.testing.assert_array_equal(sheet[7:13, 0:5, :1], ninth)
    assert "img-src data:" in page
    assert "the first 64 samples of sample" in page


def test_every_setting_has_a_sheet_and_chosen_latents_tell_how_many_passed() -> None:
    image_model()
    latents = {"kinds": ["hubs", "prior"], "pool": 100, "k": 3, "threshold": 6}
    done(job(sample(count=14, latents=latents)), report=True)
    page = Path("out/s/report.html").read_text()
    (found,) = read(Folder(str(Path("out/s").absolute()))).samples
    assert [(sheet.settings, sheet.shown) for sheet in found.sheets] == [("latents hubs", 8), ("latents prior", 6)]
    assert all(sheet.address in page for sheet in found.sheets)
    made = rows()
    assert found.acceptance == pytest.approx(made["acceptance"].filter(made["latents"] == "hubs").mean())
    assert "Latents that passed" in page


def test_a_damaged_image_leaves_its_place_free() -> None:
    grey = encode(np.full((4, 4, 1), 9, np.uint8))
    address = contact_sheet([grey, b"no image", grey])
    assert address is not None
    sheet = np.asarray(sheet_of(address))
    assert sheet[0, 0].tolist() == [9, 9, 9, 255]
    assert (sheet[:4, 5:] == 0).all()
    assert contact_sheet([b"no image"]) is None


def test_vectors_are_told_in_numbers() -> None:
    vector_model()
    done(job(sample(), sample(name="more", count=3)), report=True)
    page = Path("out/s/report.html").read_text()
    assert "img-src" not in page
    assert page.count("Longest vector") == 2
    (first, _) = read(Folder(str(Path("out/s").absolute()))).samples
    vectors = rows()["vector"].to_numpy().astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    assert (first.rows, first.settings) == (10, (("seed", (0,)),))
    assert first.vectors is not None
    np.testing.assert_allclose(first.vectors.norms, (norms.min(), norms.mean(), norms.max()))
    np.testing.assert_allclose(first.vectors.mean_norm, np.linalg.norm(vectors.mean(axis=0)))
    np.testing.assert_allclose(first.vectors.deviation, np.sqrt(vectors.var(axis=0).mean()))


def test_what_no_stage_writes_is_an_error() -> None:
    vector_model()
    done(job(sample()))
    part = Path("out/s/sample/part-00001.parquet")
    pq.write_table(pq.read_table(part).drop_columns(["vector"]), part)
    with pytest.raises(DataError, match="no column vector"):
        kx.api.build_report("out/s")


def test_a_run_without_rows_has_no_section() -> None:
    vector_model(bias=400.0)
    of = job(sample())
    of["job"]["quarantine"] = {"max_share": 1.0}
    done(of, report=True)
    assert 'id="samples"' not in Path("out/s/report.html").read_text()
