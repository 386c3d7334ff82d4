"""The digits corpus: every pixel comes back as the level it was, and nothing odd is learned from."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_digits.py"
sklearn_datasets = pytest.importorskip("sklearn.datasets", reason="the package scikit-learn is not installed")


def collect(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_every_image_decodes_to_the_levels_it_was_made_from(tmp_path: Path) -> None:
    output = tmp_path / "new" / "digits.parquet"
    result = collect("--output", output)
    assert result.returncode == 0, result.stderr
    assert "1797 rows" in result.stdout
    rows = pq.read_table(output)
    assert rows.column_names == ["id", "image", "pixels", "label"]
    assert len(set(rows["id"].to_pylist())) == rows.num_rows
    images = [Image.open(io.BytesIO(one)) for one in rows["image"].to_pylist()]
    assert {(one.format, one.mode, one.size) for one in images} == {("PNG", "L", (8, 8))}
    grey = np.stack([np.asarray(one, dtype=np.float64) for one in images])
    truth = sklearn_datasets.load_digits()
    np.testing.assert_array_equal(np.rint(grey * 16 / 255), truth.images)
    assert grey.max() == 255
    np.testing.assert_array_equal(np.stack(rows["pixels"].to_numpy()), truth.images.reshape(-1, 64))
    np.testing.assert_array_equal(rows["label"].to_numpy(), truth.target)
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_the_rows_to_learn_from_are_the_first_two_thirds_of_their_class(tmp_path: Path) -> None:
    output = tmp_path / "digits.parquet"
    assert collect("--output", output, "--normal", "3").returncode == 0
    rows = pq.read_table(output)
    label, normal, odd = (rows[name].to_numpy() for name in ("label", "normal", "odd"))
    np.testing.assert_array_equal(odd, label != 3)
    in_class = normal[label == 3]
    assert not normal[odd].any()
    assert in_class.mean() == pytest.approx(2 / 3, abs=0.01)
    assert (np.diff(in_class.astype(int)) <= 0).all()


def test_a_class_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    result = collect("--output", tmp_path / "digits.parquet", "--normal", "10")
    assert result.returncode == 2
    assert "invalid choice: 10" in result.stderr
    assert not list(tmp_path.iterdir())


def test_without_scikit_learn_it_says_what_to_install(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['sklearn'] = None; sys.argv = ['x', '--output', {str(tmp_path / 'd.parquet')!r}]; "
    code += f"sys.path.insert(0, {str(SCRIPT.parent)!r}); import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "pip install scikit-learn" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
