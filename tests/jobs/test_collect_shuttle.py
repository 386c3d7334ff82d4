"""The shuttle corpus: the published counts, river's own values, and a refusal in words where the data is not there."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_shuttle.py"
SENSORS = [f"sensor_{i}" for i in range(1, 10)]
needs_river = pytest.mark.skipif(importlib.util.find_spec("river") is None, reason="the package river is not installed")


def collect(output: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(output)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, **environment},
    )


@needs_river
def test_rows_are_rivers_own_and_nothing_odd_is_learned_from(tmp_path: Path) -> None:
    datasets = pytest.importorskip("river.datasets", reason="the package river is not installed")
    output = tmp_path / "new" / "shuttle.parquet"
    result = collect(output)
    assert result.returncode == 0, result.stderr
    rows = pq.read_table(output)
    assert rows.column_names == ["id", *SENSORS, "readings", "odd", "normal", "asks"]
    assert (rows.num_rows, len(set(rows["id"].to_pylist()))) == (49_097, 49_097)  # as published
    odd, normal = rows["odd"].to_numpy(), rows["normal"].to_numpy()
    assert odd.sum() == 3_511  # as published
    assert not (odd & normal).any()
    assert normal[~odd].mean() == pytest.approx(0.5, abs=0.01)  # a fair coin over 45 586 rows: four deviations
    values = np.stack([rows[name].to_numpy() for name in SENSORS], axis=1)
    np.testing.assert_array_equal(np.stack(rows["readings"].to_numpy()), values)
    np.testing.assert_array_equal(rows["asks"].to_numpy(), ~normal)
    for number, (x, y) in enumerate(datasets.Shuttle().take(200)):
        assert [x[f"f{i}"] for i in range(1, 10)] == values[number].tolist()
        assert y == odd[number]


@needs_river
def test_the_choice_of_rows_to_learn_from_does_not_change(tmp_path: Path) -> None:
    for name in ("first", "second"):
        assert collect(tmp_path / name, PYTHONHASHSEED=str(len(name))).returncode == 0
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


def test_without_river_it_says_what_to_install(tmp_path: Path) -> None:
    code = f"import sys; sys.modules['river'] = None; sys.argv = ['x', '--output', {str(tmp_path / 's.parquet')!r}]; "
    code += f"sys.path.insert(0, {str(SCRIPT.parent)!r}); import runpy; runpy.run_path({str(SCRIPT)!r}, run_name='__main__')"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 1
    assert "pip install 'river" in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("content", "words"), [(None, "is missing"), (b"another file", "sha256")])
def test_a_river_with_other_data_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    package = tmp_path / "library" / "river"
    (package / "datasets").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('river itself is not imported')")
    if content is not None:
        (package / "datasets" / "shuttle.csv.gz").write_bytes(content)
    result = collect(tmp_path / "out" / "s.parquet", PYTHONPATH=str(tmp_path / "library"))
    assert result.returncode == 1
    assert words in result.stderr
    assert "pip install" in result.stderr
    assert not (tmp_path / "out").exists()
