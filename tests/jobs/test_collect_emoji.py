"""Emoji from a small package in the shape of the real one: which rows there are, and what becomes of a picture."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from emoji_package import CATEGORIES, INK, write_package
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_emoji.py"


def collect(*arguments: str | int | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    write_package(tmp_path / "unpacked/package", 12)
    return tmp_path / "unpacked"


def read(path: Path) -> list[np.ndarray]:
    found = [Image.open(io.BytesIO(one)) for one in pl.read_parquet(path)["image"]]
    assert {(one.format, one.mode) for one in found} == {("PNG", "RGB")}
    return [np.asarray(one) for one in found]


def test_rows_come_from_the_tar_as_from_the_folder(tmp_path: Path, package: Path) -> None:
    with tarfile.open(tmp_path / "emoji.tgz", "w:gz") as tar:
        tar.add(package / "package", "package")
    outputs = []
    for source in (package, package / "package", tmp_path / "emoji.tgz"):
        outputs.append(tmp_path / f"{len(outputs)}.parquet")
        result = collect("--package", source, "--output", outputs[-1])
        assert result.returncode == 0, result.stderr
        assert "12 rows (4 Flags, 4 Food & Drink, 4 People & Body)" in result.stdout
    first = pl.read_parquet(outputs[0])
    assert all(first.equals(pl.read_parquet(other)) for other in outputs[1:])
    assert first.columns == ["id", "image", "category", "name"]
    assert first["id"].to_list() == [f"1F6{n:02X}" for n in range(12)]
    assert first["category"].to_list() == list(CATEGORIES) * 4
    assert first["name"][3] == "FACE 3"


def test_tones_of_skin_are_asked_for(tmp_path: Path, package: Path) -> None:
    assert collect("--package", package, "--output", tmp_path / "all.parquet", "--skins").returncode == 0
    rows = pl.read_parquet(tmp_path / "all.parquet")
    assert len(rows) == 12 + 4 * 2 + 1
    assert rows["id"].to_list()[2:5] == ["1F602", "1F602-1F3FB", "1F602-1F3FC"]
    assert rows["name"].to_list()[2:5] == ["FACE 2"] * 3
    assert rows["category"].to_list()[2:5] == ["People & Body"] * 3
    assert rows["id"].n_unique() == len(rows)
    assert rows["category"].to_list()[-1] == "Component"


def test_a_picture_lies_over_white_and_is_made_smaller(tmp_path: Path, package: Path) -> None:
    for size in (64, 32):
        result = collect("--package", package, "--output", tmp_path / f"{size}.parquet", "--size", size)
        assert result.returncode == 0, result.stderr
    (whole, *_), (small, *_) = read(tmp_path / "64.parquet"), read(tmp_path / "32.parquet")
    ink = np.zeros((64, 64), bool)
    ink[8:24, 8:24] = True
    np.testing.assert_array_equal(whole, np.where(ink[..., None], INK, 255))
    assert small.shape == (32, 32, 3)
    assert tuple(small[8, 8]) == INK
    assert tuple(small[28, 28]) == (255, 255, 255)
    assert small.min(axis=(0, 1)).tolist() == pytest.approx(INK, abs=20), "the black of what is transparent is not seen"


def test_what_is_not_the_package_is_refused_and_nothing_is_written(tmp_path: Path, package: Path) -> None:
    missing = collect("--package", tmp_path / "none.tgz", "--output", tmp_path / "out/e.parquet")
    assert missing.returncode == 0
    assert "skipped" in missing.stdout
    (tmp_path / "bad.tgz").write_text("no")
    (tmp_path / "empty").mkdir()
    (package / "package/img/google/64/1f603.png").unlink()
    for source, words in ((tmp_path / "bad.tgz", "should be the file of"), (tmp_path / "empty", "has no emoji.json")):
        result = collect("--package", source, "--output", tmp_path / "out/e.parquet")
        assert result.returncode == 1
        assert words in result.stderr
        assert "Traceback" not in result.stderr
    result = collect("--package", package, "--output", tmp_path / "out/e.parquet")
    assert result.returncode == 1
    assert "has no img/google/64/1f603.png (1 of 12 missing): take emoji-datasource-google 16.0.0" in result.stderr
    assert not (tmp_path / "out").exists()
