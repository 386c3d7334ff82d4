"""Facts about a dataset, against numpy over all rows at once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import kxbatch as kx
from kxbatch.data.inspect import BATCH, VectorFacts, inspect
from kxbatch.data.vectors import to_arrow
from kxbatch.errors import ConfigError, DataError


def write(folder: Path, x: np.ndarray, parts: int) -> Path:
    """`id` and vectors, over several files."""
    folder.mkdir(exist_ok=True)
    for number, rows in enumerate(np.array_split(np.arange(len(x)), parts)):
        table = pa.table({"id": pa.array(rows), "v": to_arrow(x[rows])})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=100)
    return folder


def vector(path: Path) -> VectorFacts:
    [found] = [column.vector for column in inspect(path).columns if column.vector]
    return found


def norm_facts(v: VectorFacts) -> list[float]:
    assert v.norm_min is not None
    assert v.norm_mean is not None
    assert v.norm_max is not None
    return [v.norm_min, v.norm_mean, v.norm_max]


def brute_cosine(x: np.ndarray) -> float:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    return float((cosine.sum() - np.trace(cosine)) / (len(x) * (len(x) - 1)))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_vectors(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(BATCH + 500, 6)) + 1).astype(dtype)
    x[3, 2], x[4, :2], x[BATCH + 1, 0], x[7] = np.nan, np.inf, -np.inf, 0
    facts = inspect(write(tmp_path / "d", x, 3), head=2)
    assert (facts.rows, facts.parts, [c.name for c in facts.columns]) == (len(x), 3, ["id", "v"])
    assert facts.bytes == sum(p.stat().st_size for p in (tmp_path / "d").iterdir())
    np.testing.assert_array_equal(np.array([row["v"] for row in facts.head], dtype), x[:2])
    v = vector(tmp_path / "d")
    finite = x[np.isfinite(x).all(axis=1)].astype(np.float64)
    norms = np.linalg.norm(finite, axis=1)
    assert (v.dim, v.nan, v.infinite, v.zero, v.null) == (6, 1, 3, 1, 0)
    assert v.lengths == {6: len(x)}
    np.testing.assert_allclose(norm_facts(v), [0, norms.mean(), norms.max()], rtol=1e-12)
    assert v.mean_cosine == pytest.approx(brute_cosine(finite[norms > 0]), abs=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(st.integers(-3, 3), max_size=3)), min_size=1, max_size=20))
def test_lists_of_any_length(tmp_path_factory: pytest.TempPathFactory, rows: list[list[int] | None]) -> None:
    path = tmp_path_factory.mktemp("ragged") / "x.parquet"
    pq.write_table(pa.table({"v": pa.array(rows, pa.list_(pa.float32()))}), path)
    facts = inspect(path)
    known = [row for row in rows if row is not None]
    assert facts.columns[0].nulls == len(rows) - len(known)
    v = vector(path)
    assert v.lengths == {n: sum(len(row) == n for row in known) for n in {len(row) for row in known}}
    assert v.dim == (len(known[0]) if len(v.lengths) == 1 else None)
    assert v.zero == sum(len(row) > 0 and not any(row) for row in known)
    norms = [np.linalg.norm(row) for row in known if row]
    if norms:
        np.testing.assert_allclose(norm_facts(v), [min(norms), np.mean(norms), max(norms)])
    else:
        assert v.norm_mean is None


def test_null_elements_are_counted_apart(tmp_path: Path) -> None:
    rows = pa.array([[1.0, None], [float("nan"), 2.0], [3.0, 4.0]], pa.list_(pa.float32(), 2))
    pq.write_table(pa.table({"v": rows}), tmp_path / "x.parquet")
    v = vector(tmp_path / "x.parquet")
    assert (v.null, v.nan, v.norm_min, v.norm_max) == (1, 1, 5.0, 5.0)


def test_columns_without_vectors(tmp_path: Path) -> None:
    table = pa.table({"text": ["a", None, None], "n": [1, 2, None], "tags": [["x"], None, []]})
    pq.write_table(table, tmp_path / "x.parquet")
    facts = inspect(tmp_path / "x.parquet", head=0)
    assert [(c.name, c.nulls, c.vector) for c in facts.columns] == [
        ("text", 2, None),
        ("n", 1, None),
        ("tags", 1, None),
    ]
    assert facts.head == []


def test_parts_of_a_stage_count_when_they_have_a_receipt(workplace: Path) -> None:
    write(workplace / "vectors", np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32), 2)
    job = {
        "job": {"name": "v", "output": "out", "executor": "inline"},
        "input": {"path": "vectors", "id": "id"},
        "stage": [{"kind": "whiten"}],
    }
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    (workplace / "out/whiten/part-00077.parquet").write_bytes(b"no Parquet at all")
    facts = inspect("out/whiten")
    assert (facts.rows, facts.parts) == (50, 2)
    assert "part-00077.parquet" in facts.notes[0]
    with pytest.raises(ConfigError, match="inspect one of its stages: whiten"):
        inspect("out")


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "empty", "no Parquet files"), (tmp_path / "nope", "no such folder")):
        with pytest.raises(ConfigError, match=words):
            inspect(path)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing more")
    with pytest.raises(DataError, match=r"x\.parquet"):
        inspect(tmp_path / "x.parquet")


def test_parts_that_do_not_agree(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "0.parquet")
    pq.write_table(pa.table({"a": ["x"]}), tmp_path / "1.parquet")
    with pytest.raises(DataError, match=r"1\.parquet and 0\.parquet .* do not agree"):
        inspect(tmp_path)
