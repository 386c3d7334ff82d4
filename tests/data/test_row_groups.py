"""Row groups of Parquet files: with dictionaries inside lists, too, of which Arrow does not read two groups at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kxbatch as kx
from kxbatch.data.inspect import inspect
from kxbatch.data.parts import publish_part, read_part
from kxbatch.data.row_groups import read_row_groups, row_batches
from kxbatch.data.storage import Folder

TYPE = pa.dictionary(pa.int32(), pa.string())
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("type", TYPE)]))
ROWS: list[Any] = [[{"start": at, "type": f"T{at % 5 + at // 30}"}] * (at % 3) for at in range(99)] + [None]
TABLE = pa.table(
    {
        "id": range(100),
        "spans": pa.array(ROWS, SPANS),
        "tags": pa.array([[f"x{at % 7}"] for at in range(100)], pa.list_(TYPE)),
        "kind": pa.array([f"k{at % 3}" for at in range(100)]).dictionary_encode(),
        "vector": pa.array([[at, at] for at in range(100)], pa.list_(pa.float32(), 2)),
    }
)


@pytest.fixture(params=[200, 9])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    pq.write_table(TABLE, tmp_path / "part-00000.parquet", row_group_size=request.param)
    return tmp_path / "part-00000.parquet"


@pytest.mark.parametrize("columns", [None, ["spans", "id"], ["id", "vector"], ["kind"], ["tags"]])
def test_all_rows_are_read(path: Path, columns: list[str] | None) -> None:
    expected = (TABLE if columns is None else TABLE.select(columns)).to_pylist()
    with pq.ParquetFile(path) as file:
        assert read_row_groups(file, columns).combine_chunks().to_pylist() == expected
        batches = list(row_batches(file, 8, columns))
        assert [row for batch in batches for row in batch.to_pylist()] == expected
        assert max(batch.num_rows for batch in batches) <= 8


def test_some_groups_are_read(path: Path) -> None:
    with pq.ParquetFile(path) as file:
        some = list(range(file.num_row_groups))[1:3]
        assert read_row_groups(file, ["spans"], some)["spans"].to_pylist() == ROWS[9:27] if some else True
        assert read_row_groups(file, ["spans"], []).num_rows == 0


def test_arrow_alone_still_fails(tmp_path: Path) -> None:
    """When it does not any more, the module can go."""
    pq.write_table(TABLE, tmp_path / "x.parquet", row_group_size=9)
    with pq.ParquetFile(tmp_path / "x.parquet") as file, pytest.raises(pa.ArrowNotImplementedError, match="chunked"):
        file.read()


def test_parts_are_read_and_looked_at(path: Path) -> None:
    assert read_part(Folder(str(path.parent)).file(path.name), ["id", "spans"])["spans"].to_pylist() == ROWS
    assert inspect(path.parent).rows == 100


def test_what_is_a_dictionary_in_memory_is_one_in_the_file(tmp_path: Path) -> None:
    publish_part(Folder(str(tmp_path)), "part-00000.parquet", TABLE, {})
    with pq.ParquetFile(tmp_path / "part-00000.parquet") as file:
        group = file.metadata.row_group(0)
        columns = [group.column(at) for at in range(group.num_columns)]
    dictionaries = {one.path_in_schema for one in columns if "RLE_DICTIONARY" in one.encodings}
    assert dictionaries == {"spans.list.element.type", "tags.list.element", "kind"}


def test_a_job_copies_such_a_column(workplace: Path) -> None:
    rows = TABLE.select(["id", "spans"]).append_column("text", pa.array(["some text"] * 100))
    pq.write_table(rows, "in.parquet", row_group_size=9)
    job = {
        "job": {"name": "x", "output": "out/x", "executor": "inline"},
        "input": {"path": "in.parquet", "id": "id"},
        "stage": [{"kind": "embed", "column": "text", "model": "callable:trigrams:embed", "keep": ["spans"]}],
    }
    assert kx.run(job, quiet=True).exit_code == 0
    parts = sorted(Path("out/x/embed").glob("part-*.parquet"))
    assert [row for part in parts for row in pq.read_table(part)["spans"].to_pylist()] == ROWS
