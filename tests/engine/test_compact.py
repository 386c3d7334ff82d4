"""Fewer parts, the same rows in the same order, whatever happens on the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import kxbatch as kx
from kxbatch.data.parts import part_name, publish_part, read_footer
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow, vector_type
from kxbatch.engine import compact as module
from kxbatch.engine.compact import compact, group_by_size
from kxbatch.engine.export import export
from kxbatch.errors import ConfigError, DataError

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]

SCRIPT = Path(__file__).with_name("compact_script.py")


def write_parts(folder: Path, sizes: list[int]) -> pa.Table:
    """Parts of the given numbers of rows: an id, a vector and a text; returns all rows."""
    rng, first = np.random.default_rng(0), 0
    schema = pa.schema([("id", pa.int64()), pa.field("v", vector_type(4), nullable=False), ("text", pa.string())])
    tables = []
    for number, rows in enumerate(sizes):
        columns = [pa.array(range(first, first + rows)), to_arrow(rng.normal(size=(rows, 4)).astype(np.float32))]
        tables.append(pa.table([*columns, pa.array([f"text {i}" for i in range(rows)])], schema=schema))
        publish_part(Folder(str(folder)), part_name(number), tables[-1], {"job": "j", "inputs": f"in-{number}"})
        first += rows
    return pa.concat_tables(tables)


@given(st.lists(st.integers(0, 50), min_size=1), st.integers(1, 100))
def test_groups_are_runs_that_fit_and_could_not_be_longer(sizes: list[int], target: int) -> None:
    groups = group_by_size(sizes, target)
    assert [index for group in groups for index in group] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in group) for group in groups]
    assert all(total <= target or len(group) == 1 for total, group in zip(totals, groups, strict=True))
    assert all(total + sizes[after[0]] > target for total, after in zip(totals, groups[1:], strict=False))


def test_rows_order_types_and_layout_stay(tmp_path: Path) -> None:
    rows = write_parts(tmp_path / "d", [10, 20, 3000, 5, 5, 40])
    (tmp_path / "d/README.txt").write_text("about these rows")
    sizes = [p.stat().st_size for p in sorted((tmp_path / "d").glob("*.parquet"))]
    large = (tmp_path / "d" / part_name(2)).stat().st_ino
    result = compact(tmp_path / "d", 10_000)
    assert (result.parts_before, result.parts_after, result.rows) == (6, 3, rows.num_rows)
    assert result.bytes_before == sum(sizes)
    assert result.bytes_after == sum(p.stat().st_size for p in (tmp_path / "d").glob("*.parquet"))
    table = ds.dataset(sorted((tmp_path / "d").glob("*.parquet"))).to_table()
    assert table.equals(rows)
    assert table.schema.field("v").equals(rows.schema.field("v"))
    assert (tmp_path / "d" / part_name(1)).stat().st_ino == large, "a part that is large enough is not rewritten"
    assert (tmp_path / "d/README.txt").read_text() == "about these rows"
    assert read_footer(Folder(str(tmp_path / "d")).file(part_name(0)))[2] == {"job": "j", "inputs": "in-0; in-1"}


def test_nothing_to_do_changes_nothing(tmp_path: Path) -> None:
    write_parts(tmp_path / "d", [300, 300])
    before = {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "d").iterdir()}
    result = compact(tmp_path / "d", 100)
    assert result.parts_after == result.parts_before == 2
    assert {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in (tmp_path / "d").iterdir()} == before


def test_an_export_can_be_compacted_and_exported_again(finished: Finished) -> None:
    export(kx.open("out/audit"), Path("flat"))
    before = ds.dataset("flat").to_table()
    assert compact("flat", 10**9).parts_after == 1
    assert pq.read_table("flat/part-00000.parquet").equals(before)
    assert export(kx.open("out/audit"), Path("flat")).parts > 1
    assert ds.dataset("flat").to_table().equals(before)


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_kill_nine_before_every_change_of_the_file_system(tmp_path: Path, way: str) -> None:
    write_parts(tmp_path / "pristine", [5, 5, 200, 5, 5, 5])
    (tmp_path / "pristine/README.txt").write_text("about these rows")
    done = subprocess.run([sys.executable, str(SCRIPT), way], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["steps"] >= 15, facts
    assert 1 < facts["parts"] < 7, facts
    assert facts["wrong_rows"] == [], "a reader of the folder saw rows twice, or not all of them"
    assert facts["not_mended"] == []
    assert facts["absent"] == (0 if way == "exchange" else 1), facts


def test_rows_appended_meanwhile_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write_parts(tmp_path / "d", [5, 5, 5])

    def appending(folder: Folder, name: str, table: pa.Table, metadata: dict[str, str]) -> Any:
        os.link(tmp_path / "d" / part_name(0), tmp_path / "d" / part_name(7))
        return publish_part(folder, name, table, metadata)

    monkeypatch.setattr(module, "publish_part", appending)
    with pytest.raises(DataError, match="somebody else changed it"):
        compact(tmp_path / "d", 10**6)
    assert ds.dataset(tmp_path / "d").to_table().num_rows == rows.num_rows + 5


def test_parts_that_do_not_agree(tmp_path: Path) -> None:
    write_parts(tmp_path / "d", [5, 5])
    pq.write_table(pa.table({"id": [1], "v": [1.5]}), tmp_path / "d/part-00009.parquet")
    with pytest.raises(DataError, match=r"part-00009\.parquet and part-00000\.parquet do not agree .*v: double"):
        compact(tmp_path / "d", 10**6)
    assert len(list((tmp_path / "d").iterdir())) == 3


def test_a_column_that_is_null_in_one_part_only(tmp_path: Path) -> None:
    for number, (value, nullable) in enumerate([(1, False), (None, True)]):
        schema = pa.schema([pa.field("a", pa.int64(), nullable=nullable)])
        pq.write_table(pa.table([pa.array([value], pa.int64())], schema=schema), tmp_path / f"{number}.parquet")
    compact(tmp_path, 10**6)
    assert pq.read_table(tmp_path / part_name(0)).column("a").to_pylist() == [1, None]


def test_what_is_not_a_flat_dataset(finished: Finished, tmp_path: Path) -> None:
    for place in ("out/audit", "out/audit/embed", "out/audit/hubness/_artifact"):
        with pytest.raises(ConfigError, match=r"belongs to a job.*kxbatch export"):
            compact(place, 10**6)
    (tmp_path / "outer/inner").mkdir(parents=True)
    for path, words in ((tmp_path / "outer", "subfolders"), (tmp_path / "outer/inner", "no .parquet files")):
        with pytest.raises(ConfigError, match=words):
            compact(path, 10**6)
    for path in (tmp_path / "nothing", tmp_path / "nothing/at/all"):
        with pytest.raises(ConfigError, match="no such folder"):
            compact(path, 10**6)
