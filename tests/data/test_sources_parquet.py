import datetime
import decimal
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import ReadOptions, ReadResult, SourceFile, SourceScan, discover, hash_ids, read, scan
from kxbatch.errors import ConfigError, DataError

COMMON = settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(folder: Path, table: pa.Table, name: str = "a.parquet", rows: int = 10**6) -> SourceFile:
    pq.write_table(table, folder / name, row_group_size=rows)
    return discover([name], base=folder)[0]


def scanned(source: SourceFile, target: int = 10**9, id_column: str | None = None) -> SourceScan:
    return scan(source, target_bytes=target, id_column=id_column, options=ReadOptions())


def read_all(
    found: SourceScan, columns: list[str], id_column: str | None = None, schema: pa.Schema | None = None
) -> list[ReadResult]:
    frozen = schema or found.schema
    options = ReadOptions()
    return [
        read(found.source, cut, columns=columns, schema=frozen, id_column=id_column, options=options)
        for cut in found.cuts
    ]


@COMMON
@given(count=st.integers(1, 40), group=st.integers(1, 15), target=st.integers(1, 2000))
def test_cuts_of_any_size_read_back_as_the_whole(tmp_path: Path, count: int, group: int, target: int) -> None:
    table = pa.table({"doc": [f"d{i}" for i in range(count)], "n": list(range(count))})
    found = scanned(write(tmp_path, table, rows=group), target)
    metadata = pq.read_metadata(found.source.url)
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    assert [cut.start for cut in found.cuts] == [0, *(cut.stop for cut in found.cuts[:-1])]
    assert found.cuts[-1].stop == len(sizes)
    for cut in found.cuts:
        assert cut.bytes == sum(sizes[cut.start : cut.stop])
        assert cut.bytes <= target or cut.stop == cut.start + 1
    results = read_all(found, ["n", "doc"])
    assert [result.table.num_rows for result in results] == [cut.rows for cut in found.cuts]
    whole = pa.concat_tables([result.table for result in results])
    assert whole.select(["doc", "n"]).to_pylist() == table.to_pylist()
    assert whole["id"].to_pylist() == [f"a.parquet#{i}" for i in range(count)]


def test_types_are_those_of_the_footer_with_text_as_string_and_dictionaries_decoded(tmp_path: Path) -> None:
    moment = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    columns = {
        "category": pa.array(["x", None, "x"]).dictionary_encode(),
        "large": pa.array(["a", "b", "c"], pa.large_string()),
        "view": pa.array(["a", "b", None], pa.string_view()),
        "time": pa.array([moment, None, moment], pa.timestamp("ms", "UTC")),
        "price": pa.array([decimal.Decimal("1.50")] * 3, pa.decimal128(9, 2)),
        "half": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float16)), 2),
        "single": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2),
        "ragged": pa.array([[1.0], [], None], pa.list_(pa.float64())),
        "nested": pa.array([{"a": 1}] * 3),
    }
    table = pa.table(columns)
    found = scanned(write(tmp_path, table))
    text = {"category", "large", "view"}
    stored = pq.read_schema(found.source.url)
    expected = [(name, pa.string() if name in text else stored.field(name).type) for name in columns]
    assert found.schema == pa.schema(expected)
    [result] = read_all(found, list(columns))
    assert result.table.schema.types[1:] == found.schema.types
    assert result.table.select(list(columns)).to_pylist() == table.to_pylist()


def test_files_of_polars(tmp_path: Path) -> None:
    frame = pl.DataFrame({"doc": [3, 1, 2], "text": ["a", None, "é"], "v": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]})
    frame.with_columns(pl.col("v").cast(pl.Array(pl.Float32, 2))).write_parquet(tmp_path / "a.parquet")
    found = scanned(discover(["a.parquet"], base=tmp_path)[0], id_column="doc")
    assert pa.types.is_fixed_size_list(found.schema.field("v").type)
    [result] = read_all(found, ["text", "v"], "doc")
    assert result.table.to_pylist() == frame.rename({"doc": "id"}).to_dicts()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.string(), ["b", "a"]),
        (pa.large_string(), ["b", "a"]),
        (pa.dictionary(pa.int32(), pa.string()), ["b", "a"]),
        (pa.int32(), [7, -1]),
        (pa.uint64(), [7, 2**63 - 1]),
    ],
)
def test_ids_of_a_column(tmp_path: Path, kind: pa.DataType, values: list[object]) -> None:
    found = scanned(write(tmp_path, pa.table({"doc": pa.array(values, kind), "n": [1, 2]})), id_column="doc")
    [result] = read_all(found, ["n"], "doc")
    assert result.table["id"].type in (pa.string(), pa.int64())
    assert result.table["id"].to_pylist() == values
    assert found.id_hashes is not None
    assert found.id_hashes.tolist() == hash_ids(result.table["id"]).tolist()


def test_rows_without_id_or_with_broken_text_are_set_aside(tmp_path: Path) -> None:
    broken = pa.array([b"ok", b"\xffno", b"x", b"y", None], pa.binary()).view(pa.string())
    table = pa.table({"doc": ["a", "b", None, "", "e"], "text": broken, "n": [1, 2, 3, 4, 5]})
    found = scanned(write(tmp_path, table, rows=2), target=1, id_column="doc")
    assert len(found.cuts) == 3
    assert found.id_hashes is not None
    assert len(found.id_hashes) == 3
    results = read_all(found, ["text", "n"], "doc")
    good = pa.concat_tables([result.table for result in results])
    assert good.to_pylist() == [{"id": "a", "text": "ok", "n": 1}, {"id": "e", "text": None, "n": 5}]
    bad = [row for result in results for row in result.bad]
    assert [(row.row, row.line, row.id, row.error) for row in bad] == [
        (1, None, "b", "invalid-utf8"),
        (2, None, None, "missing-id"),
        (3, None, "", "missing-id"),
    ]
    assert bad[0].message == "column 'text' holds bytes that are not UTF-8"
    assert bad[0].raw == '{"id":"b","text":"\ufffdno","n":2}'
    assert bad[1].message == "no value in the id column 'doc'"


def test_only_ids_can_be_read(tmp_path: Path) -> None:
    table = pa.table({"doc": [5, 6], "n": [1, 2]})
    found = scanned(write(tmp_path, table), id_column="doc")
    assert read_all(found, [], "doc")[0].table.to_pylist() == [{"id": 5}, {"id": 6}]
    assert read_all(found, [])[0].table["id"].to_pylist() == ["a.parquet#0", "a.parquet#1"]
    renamed = scanned(write(tmp_path, table.rename_columns(["id", "n"])))
    assert read_all(renamed, ["id", "n"], "id")[0].table.to_pylist() == [{"id": 5, "n": 1}, {"id": 6, "n": 2}]


def test_the_frozen_schema_decides_the_types(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, pa.table({"n": pa.array([1, 2], pa.int32()), "t": ["x", "y"]})))
    [result] = read_all(found, ["n"], schema=pa.schema({"n": pa.float64()}))
    assert result.table.schema.types == [pa.string(), pa.float64()]
    with pytest.raises(
        DataError, match=r"a\.parquet: column 't' is string and does not become double .*convert the file"
    ):
        read_all(found, ["t"], schema=pa.schema({"t": pa.float64()}))


def test_a_file_without_rows_has_no_cuts(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, pa.schema({"doc": pa.string()}).empty_table()), id_column="doc")
    assert (found.cuts, found.rows, found.schema.names) == ((), 0, ["doc"])


def test_words_for_columns_that_cannot_be(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, pa.table({"doc": [0.5], "text": ["x"]})))
    with pytest.raises(ConfigError, match=r"no column 'txt'; did you mean 'text'\? \(the file has: doc, text\)"):
        read_all(found, ["txt"], schema=pa.schema({"txt": pa.string()}))
    with pytest.raises(ConfigError, match="id column 'doc' is double; ids are strings or integers"):
        scanned(found.source, id_column="doc")
    with pytest.raises(ConfigError, match="no column 'dok'; did you mean 'doc'"):
        scanned(found.source, id_column="dok")
    twice = write(tmp_path, pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["n", "n"]), "b.parquet")
    with pytest.raises(ConfigError, match="column 'n' is there 2 times"):
        read_all(scanned(twice), ["n"], schema=pa.schema({"n": pa.int64()}))


def test_words_for_damaged_files(tmp_path: Path) -> None:
    good = write(tmp_path, pa.table({"n": list(range(10_000))}))
    data = Path(good.url).read_bytes()
    for name, damaged in (("cut.parquet", data[:-9]), ("other.parquet", b"not parquet at all"), ("x.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(
            DataError, match=rf"{name}: cannot be read as Parquet .*truncated, corrupt or something else"
        ):
            scanned(discover([name], base=tmp_path)[0])
    (tmp_path / "empty.parquet").write_bytes(b"")
    with pytest.raises(DataError, match=r"empty\.parquet: the file is empty \(0 bytes\)"):
        scanned(discover(["empty.parquet"], base=tmp_path)[0])
    (tmp_path / "page.parquet").write_bytes(data[:4] + bytes(200) + data[204:])
    found = scanned(discover(["page.parquet"], base=tmp_path)[0])  # the footer is whole
    with pytest.raises(DataError, match=r"page\.parquet: cannot be read as Parquet"):
        read_all(found, ["n"])
