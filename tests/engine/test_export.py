"""One flat dataset with the rows, values and types of the stages' own parts."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support import write_texts

import kxbatch as kx
from kxbatch.data.vectors import to_arrow, to_numpy
from kxbatch.engine import export as module
from kxbatch.engine.export import export
from kxbatch.errors import ConfigError, DataError

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]


def vectors_job(**whiten: Any) -> dict[str, Any]:
    """Whiten keeps the vector, hubness sets the zero vector aside: fewer rows below than above."""
    return {
        "job": {"name": "vectors", "output": "out/vectors", "executor": "inline", "quarantine": {"max_share": 0.1}},
        "input": {"path": "vectors/*.parquet", "id": "doc", "shard_size": "1kB"},
        "stage": [
            {"kind": "whiten", "dim": 4, "keep": ["vec"], **whiten},
            {"kind": "hubness", "column": "vec", "k": 2},
        ],
    }


@pytest.fixture
def vectors(workplace: Path) -> Path:
    (workplace / "vectors").mkdir()
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    x[7] = 0
    for part in range(3):
        rows = slice(part * 20, part * 20 + 20)
        table = pa.table({"doc": [f"d{i:02d}" for i in range(60)][rows], "vec": to_arrow(x[rows])})
        pq.write_table(table, workplace / f"vectors/{part}.parquet")
    assert kx.run(vectors_job(), quiet=True, report=False).exit_code == 0
    return workplace


def test_a_folder_holds_the_joined_frame(finished: Finished) -> None:
    frame = kx.open("out/audit").scan().collect()
    result = export(kx.open("out/audit"), Path("flat"))
    assert (result.rows, result.format, result.columns) == (frame.height, "parquet", frame.columns)
    assert result.parts == len(list((finished.home / "flat").iterdir())) > 4
    assert pl.read_parquet("flat").equals(frame)
    table = ds.dataset("flat").to_table()
    for stage in ("embed", "whiten"):
        [own] = [f for f in pq.read_schema(f"out/audit/{stage}/part-00000.parquet") if f.name.startswith(stage[:5])]
        assert table.schema.field(own.name).equals(own), "vectors stay fixed-size lists without nulls"
    assert not table.schema.field("id").nullable


def test_rows_that_a_later_stage_set_aside_have_nulls(vectors: Path) -> None:
    frame = kx.open("out/vectors").scan().collect()
    export(kx.open("out/vectors"), Path("flat"))
    assert pl.read_parquet("flat/*.parquet").equals(frame)
    table = ds.dataset("flat").to_table()
    lost = table.filter(ds.field("id") == "d07")
    assert lost.column("neighbor_ids").to_pylist() == lost.column("k_occurrence").to_pylist() == [None]
    assert to_numpy(lost.column("whitened"), "whitened").shape == (1, 4)
    assert table.schema.field("whitened").nullable is False
    assert table.schema.field("neighbor_scores").nullable is True
    assert pa.types.is_fixed_size_list(table.schema.field("vec").type)
    assert table.column("k_occurrence").null_count == 1


def test_half_precision_stays_half_precision(vectors: Path) -> None:
    assert kx.run(vectors_job(dtype="float16"), quiet=True, report=False).exit_code == 0
    export(kx.open("out/vectors"), Path("flat.parquet"))
    exported, own = pq.read_table("flat.parquet"), pq.read_table("out/vectors/whiten/part-00000.parquet")
    assert exported.schema.field("whitened").equals(own.schema.field("whitened"))
    assert exported.column("whitened").slice(0, own.num_rows).to_pylist() == own.column("whitened").to_pylist()


def test_chosen_columns_come_in_the_order_asked_for(finished: Finished) -> None:
    result = export(kx.open("out/audit"), Path("flat"), columns=["hubness.k_occurrence", "lang"])
    assert result.columns == ["id", "hubness.k_occurrence", "lang"]
    expected = kx.open("out/audit").scan().select(result.columns).collect()
    assert pl.read_parquet("flat").equals(expected)


def test_an_unknown_column_names_the_nearest(finished: Finished) -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'whitened'.*keep"):
        export(kx.open("out/audit"), Path("flat"), columns=["whitend"])
    assert not Path("flat").exists()


def test_jsonl_and_csv_hold_the_same_values(vectors: Path) -> None:
    output = kx.open("out/vectors")
    rows = output.scan().collect().to_dicts()
    assert export(output, Path("flat.jsonl")).rows == 60
    lines = [json.loads(line) for line in Path("flat.jsonl").read_text().splitlines()]
    assert [set(line) for line in lines] == [set(row) for row in rows]
    export(output, Path("flat.csv"))
    with Path("flat.csv").open() as file:
        fields = list(csv.DictReader(file))
    assert len(fields) == len(lines) == len(rows) == 60
    for row, line, field in zip(rows, lines, fields, strict=True):
        assert line["id"] == field["id"] == row["id"]
        np.testing.assert_array_equal(np.float32(line["whitened"]), np.float32(row["whitened"]))
        np.testing.assert_array_equal(np.float32(json.loads(field["whitened"])), np.float32(row["whitened"]))
        assert line["neighbor_ids"] == row["neighbor_ids"]
        assert (json.loads(field["neighbor_ids"]) if field["neighbor_ids"] else None) == row["neighbor_ids"]
        assert line["k_occurrence"] == row["k_occurrence"]


def test_the_same_output_is_exported_again_as_a_whole(finished: Finished) -> None:
    export(kx.open("out/audit"), Path("flat"))
    before = {p.name: p.read_bytes() for p in Path("flat").iterdir()}
    write_texts(finished.home / "data/texts-9.jsonl", 500, 10)
    try:
        finished.run()
    finally:
        (finished.home / "data/texts-9.jsonl").unlink()
    result = export(kx.open("out/audit"), Path("flat"))
    assert result.rows == 130
    assert result.parts == len(list(Path("flat").iterdir())) > len(before)
    assert [p.name for p in finished.home.iterdir() if p.name.startswith(".tmp-")] == []


def test_a_failed_export_leaves_the_earlier_one(finished: Finished) -> None:
    export(kx.open("out/audit"), Path("flat"))
    before = {p.name: p.read_bytes() for p in Path("flat").iterdir()}
    (finished.output / "whiten/part-00002.parquet").write_bytes(b"not Parquet")
    with pytest.raises(DataError, match="part-00002"):
        export(kx.open("out/audit"), Path("flat"))
    assert {p.name: p.read_bytes() for p in Path("flat").iterdir()} == before
    assert [p.name for p in finished.home.iterdir() if p.name.startswith(".tmp-")] == []


def test_what_is_in_the_way_is_not_overwritten_unasked(finished: Finished, tmp_path: Path) -> None:
    output = kx.open("out/audit")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    pq.write_table(pa.table({"a": [1]}), foreign / "part-00000.parquet")
    with pytest.raises(ConfigError, match="--overwrite"):
        export(output, foreign)
    export(output, foreign, overwrite=True)
    assert pl.read_parquet(foreign / "*.parquet").height == 120
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "thesis.txt").write_text("years of work")
    with pytest.raises(ConfigError, match=r"thesis\.txt"):
        export(output, mixed, overwrite=True)
    assert (mixed / "thesis.txt").read_text() == "years of work"
    table = tmp_path / "flat.csv"
    table.write_text("mine")
    with pytest.raises(ConfigError, match="--overwrite"):
        export(output, table)
    assert table.read_text() == "mine"
    export(output, table, overwrite=True, columns=["lang"])
    assert len(table.read_text().splitlines()) == 121


def test_places_that_would_spoil_the_output(finished: Finished) -> None:
    for place in ("out/audit", "out/audit/flat", "out"):
        with pytest.raises(ConfigError, match="write beside it"):
            export(kx.open("out/audit"), Path(place))


def test_formats(finished: Finished) -> None:
    output = kx.open("out/audit")
    with pytest.raises(ConfigError, match=r"did you mean '\.jsonl'"):
        export(output, Path("flat.jsonls"))
    with pytest.raises(ConfigError, match="did you mean 'parquet'"):
        export(output, Path("flat"), format="parquett")
    assert export(output, Path("flat-file"), format="csv").parts == 1
    Path("folder").mkdir()
    with pytest.raises(ConfigError, match="is a folder"):
        export(output, Path("folder"), format="csv")


def test_a_single_file_has_a_limit(finished: Finished, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_ROWS", 119)
    with pytest.raises(ConfigError, match="120 rows are too many for a single file"):
        export(kx.open("out/audit"), Path("flat.csv"))
    assert export(kx.open("out/audit"), Path("flat")).rows == 120


def test_parts_with_vectors_of_two_lengths(finished: Finished) -> None:
    part = finished.output / "whiten/part-00002.parquet"
    table = pq.read_table(part)
    short = to_arrow(np.zeros((table.num_rows, 3), np.float32))
    pq.write_table(pa.table([table.column("id"), short], names=["id", "whitened"]), part)
    with pytest.raises(DataError, match="vectors of length 3 and 8"):
        export(kx.open("out/audit"), Path("flat"))
