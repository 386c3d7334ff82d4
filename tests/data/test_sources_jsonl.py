import gzip
import json
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import BadRow, ReadOptions, ReadResult, SourceFile, SourceScan, discover, read, scan
from kxbatch.errors import ConfigError, DataError

COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
GOOD = st.fixed_dictionaries(
    {"id": st.integers(0, 10**6), "text": st.text(max_size=8)},
    optional={"n": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))},
)
BAD = [
    b"{",
    b"[1]",
    b"3",
    b"null",
    b'{"id": 1, "text": 7}',
    b'{"id": 1, "text": "\xff"}',
    b'{"text": "no id"}',
    b"nul\0",
]
BLANK = [b"", b"  ", b"\t"]


def open_source(path: Path) -> SourceFile:
    return discover([str(path)], base=path.parent)[0]


def write(folder: Path, *lines: bytes, name: str = "a.jsonl", end: bytes = b"\n") -> SourceFile:
    (folder / name).write_bytes(b"".join(line + end for line in lines))
    return open_source(folder / name)


def scanned(source: SourceFile, target: int = 10**9, id_column: str | None = None, **options: Any) -> SourceScan:
    return scan(source, target_bytes=target, id_column=id_column, options=ReadOptions(**options))


def read_all(
    found: SourceScan, columns: list[str], id_column: str | None = None, schema: pa.Schema | None = None, **options: Any
) -> list[ReadResult]:
    return [
        read(
            found.source,
            cut,
            columns=columns,
            schema=schema or found.schema,
            id_column=id_column,
            options=ReadOptions(**options),
        )
        for cut in found.cuts
    ]


def only(folder: Path, *lines: bytes, columns: list[str], schema: pa.Schema, **options: Any) -> ReadResult:
    source = write(folder, *lines)
    [result] = read_all(scanned(source, **options), columns, schema=schema, **options)
    return result


@COMMON
@given(
    rows=st.lists(GOOD, min_size=1, max_size=30),
    target=st.integers(1, 300),
    block=st.integers(1, 200),
    end=st.sampled_from([b"\n", b"\r\n"]),
    closed=st.booleans(),
)
def test_cuts_of_any_size_read_back_as_the_whole(
    tmp_path: Path, rows: list[dict[str, Any]], target: int, block: int, end: bytes, closed: bool
) -> None:
    data = end.join(json.dumps(row, ensure_ascii=False).encode() for row in rows) + (end if closed else b"")
    (tmp_path / "a.jsonl").write_bytes(data)
    found = scanned(open_source(tmp_path / "a.jsonl"), target, "id", block_bytes=block)
    assert found.rows == len(rows)
    assert [cut.start for cut in found.cuts] == [0, *(cut.stop for cut in found.cuts[:-1])]
    assert found.cuts[-1].stop == len(data)
    assert all(cut.bytes <= target or cut.rows == 1 for cut in found.cuts)
    columns = [name for name in ("text", "n") if name in found.schema.names]
    results = read_all(found, columns, "id", block_bytes=block)
    assert not [bad for result in results for bad in result.bad]
    table = pa.concat_tables([result.table for result in results])
    assert table.column_names == ["id", *columns]
    assert table.to_pylist() == [{"id": row["id"]} | {name: row.get(name) for name in columns} for row in rows]


@COMMON
@given(
    lines=st.lists(st.one_of(GOOD.map(lambda row: json.dumps(row).encode()), st.sampled_from([*BAD, *BLANK]))),
    target=st.integers(1, 100),
    block=st.integers(1, 100),
)
def test_no_row_is_ever_lost(tmp_path: Path, lines: list[bytes], target: int, block: int) -> None:
    lines = [b'{"id": 0, "text": ""}', *lines]  # the file must show once that it has an id column
    source = write(tmp_path, *lines)
    found = scanned(source, target, "id", block_bytes=block)
    schema = pa.schema({"id": pa.int64(), "text": pa.string()})
    good, bad = [], []
    for cut, result in zip(found.cuts, read_all(found, ["text"], "id", schema, block_bytes=block), strict=True):
        assert result.table.num_rows + len(result.bad) == cut.rows
        assert all(cut.first_row <= row.row for row in result.bad)
        good += result.table.to_pylist()
        bad += result.bad
    rows = {number: line for number, line in enumerate(lines) if line.strip()}
    assert [row.row for row in bad] == [number for number, line in rows.items() if line in BAD]
    assert [row.line for row in bad] == [row.row + 1 for row in bad]
    assert [(row["id"], row["text"]) for row in good] == [
        (json.loads(line)["id"], json.loads(line)["text"]) for line in rows.values() if line not in BAD
    ]


def test_files_of_polars_with_every_packing(tmp_path: Path) -> None:
    frame = pl.DataFrame({"doc": ["a", "b", "c"], "n": [1, None, 3], "x": [0.5, 1.0, None], "ok": [True, False, None]})
    frame = frame.with_columns(v=pl.Series([[1.0, 2.5], [3.0, 4.0], None]))
    frame.write_ndjson(tmp_path / "a.jsonl")
    plain = (tmp_path / "a.jsonl").read_bytes()
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(plain[:40]) + gzip.compress(plain[40:]))
    (tmp_path / "c.jsonl.zst").write_bytes(pa.compress(plain, codec="zstd", asbytes=True))
    for source in discover([str(tmp_path)], base=tmp_path):
        found = scanned(source, 60, "doc")
        assert len(found.cuts) > 1
        kinds = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.list_(pa.float64())]
        assert found.schema == pa.schema(list(zip(frame.columns, kinds, strict=True)))
        table = pa.concat_tables([r.table for r in read_all(found, ["n", "x", "ok", "v"], "doc")])
        assert table.to_pylist() == frame.rename({"doc": "id"}).to_dicts()


def test_blank_lines_are_no_rows_but_keep_their_numbers(tmp_path: Path) -> None:
    source = write(tmp_path, b"", b'{"a": 1}', b"  ", b"\r", b'{"a": 2}', b"{", b"")
    found = scanned(source)
    assert found.rows == 3
    [result] = read_all(found, ["a"])
    assert result.table.to_pylist() == [{"id": "a.jsonl#1", "a": 1}, {"id": "a.jsonl#4", "a": 2}]
    assert [(bad.row, bad.line, bad.id) for bad in result.bad] == [(5, 6, "a.jsonl#5")]


def test_byte_order_marks(tmp_path: Path) -> None:
    source = write(tmp_path, b'\xef\xbb\xbf{"a": 1}', b'{"a": 2}')
    assert read_all(scanned(source), ["a"])[0].table["a"].to_pylist() == [1, 2]
    (tmp_path / "u.jsonl").write_text('{"a": 1}\n', encoding="utf-16")
    with pytest.raises(DataError, match=r"u\.jsonl: the text is UTF-16; convert it to UTF-8"):
        scanned(open_source(tmp_path / "u.jsonl"))


def test_an_empty_file_has_no_rows(tmp_path: Path) -> None:
    for source in (write(tmp_path, name="a.jsonl"), write(tmp_path, b"", b" ", name="b.jsonl")):
        found = scanned(source, id_column="doc")
        assert (found.cuts, found.rows, found.schema.names) == ((), 0, [])
        assert found.id_hashes is not None
        assert len(found.id_hashes) == 0
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b""))
    assert scanned(open_source(tmp_path / "c.jsonl.gz")).rows == 0


@pytest.mark.parametrize(
    ("line", "error", "words"),
    [
        (b'{"a": 1', "malformed-json", "at column 8"),
        (b'{"a": 1} x', "malformed-json", "unexpected content after document at column 10"),
        (b'{"a": NaN}', "malformed-json", "at column 7"),
        (b"[1]", "not-an-object", "the line is an array; a row is a JSON object {...}"),
        (b"7", "not-an-object", "the line is a number"),
        (b'{"a": "\xff"}', "invalid-utf8", "byte 7 of the row (0xff) is not UTF-8"),
        (b'{"a": "x"}', "wrong-type", "column 'a' holds \"x\" (a string), expected int64"),
    ],
)
def test_words_for_bad_rows(tmp_path: Path, line: bytes, error: str, words: str) -> None:
    result = only(tmp_path, b'{"a": 1}', line, columns=["a"], schema=pa.schema({"a": pa.int64()}))
    assert result.table.to_pylist() == [{"id": "a.jsonl#0", "a": 1}]
    [bad] = result.bad
    assert (bad.row, bad.line, bad.id, bad.error) == (1, 2, "a.jsonl#1", error)
    assert words in bad.message
    assert bad.raw == line.decode("utf-8", "replace")


def test_a_bad_row_is_named_by_its_id_where_it_has_one(tmp_path: Path) -> None:
    source = write(tmp_path, b'{"doc": "a", "n": 1}', b'{"doc": "b", "n": "x"}', b'{"n": 2}', b'{"doc": "", "n": 3}')
    [result] = read_all(scanned(source, id_column="doc"), ["n"], "doc")
    assert [(bad.id, bad.error) for bad in result.bad] == [
        ("b", "wrong-type"),
        (None, "missing-id"),
        ("", "missing-id"),
    ]
    assert result.bad[1].message == "no value in the id column 'doc'"


def test_a_line_beyond_the_limit_is_a_bad_row(tmp_path: Path) -> None:
    long = b'{"a": "' + b"y" * 5000 + b'"}'
    schema = pa.schema({"a": pa.string()})
    options = {"max_line_bytes": 100, "block_bytes": 64}
    result = only(tmp_path, b'{"a": "1"}', long, b'{"a": "2"}', columns=["a"], schema=schema, **options)
    assert result.table["id"].to_pylist() == ["a.jsonl#0", "a.jsonl#2"]
    [bad] = result.bad
    assert (bad.row, bad.id, bad.error, bad.message) == (1, "a.jsonl#1", "too-long", "longer than 100 bytes")
    assert bad.raw == long[:101].decode()
    wide = only(tmp_path, long, columns=["a"], schema=schema, max_line_bytes=4000)
    assert wide.bad[0].raw == long[:500].decode()


def test_the_schema_comes_from_the_first_thousand_rows(tmp_path: Path) -> None:
    source = write(tmp_path, *[b'{"a": 1}'] * 1000, b'{"a": 0.5, "b": 1}')
    found = scanned(source)
    assert found.schema == pa.schema({"a": pa.int64()})
    [result] = read_all(found, ["a"])
    assert [(bad.row, bad.message) for bad in result.bad] == [(1000, "column 'a' holds 0.5 (a float), expected int64")]
    assert scanned(write(tmp_path, b'{"a": 1}', b'{"a": 0.5}')).schema == pa.schema({"a": pa.float64()})


def test_a_file_without_one_good_row_is_set_aside_row_by_row(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, b"[", b"]"), id_column="doc")
    assert (found.rows, found.schema.names) == (2, [])
    [result] = read_all(found, [], "doc")
    assert [bad.error for bad in result.bad] == ["malformed-json"] * 2
    assert result.table.num_rows == 0


def test_ids_of_a_column(tmp_path: Path) -> None:
    source = write(
        tmp_path, b'{"doc": 7, "t": "x"}', b'{"doc": 8, "t": "y"}', b'{"doc": 7, "t": "z"}', b"{", b'{"t": ""}'
    )
    found = scanned(source, id_column="doc")
    assert found.id_hashes is not None
    first, second, third = found.id_hashes.tolist()
    assert first == third != second
    [result] = read_all(found, ["doc", "t"], "doc")
    assert result.table.schema == pa.schema(
        [pa.field("id", pa.int64(), nullable=False), ("doc", pa.int64()), ("t", pa.string())]
    )
    # A frozen schema without the id column leaves its type to the file.
    [again] = read_all(found, ["t"], "doc", pa.schema({"t": pa.string()}))
    assert again.table["id"].equals(result.table["id"])


def test_words_for_columns_that_cannot_be(tmp_path: Path) -> None:
    source = write(tmp_path, b'{"doc": 0.5, "text": "x"}')
    with pytest.raises(
        ConfigError, match=r"a\.jsonl: no column 'dox'; did you mean 'doc'\? \(the file has: doc, text\)"
    ):
        scanned(source, id_column="dox")
    with pytest.raises(ConfigError, match="id column 'doc' is double; ids are strings or integers"):
        scanned(source, id_column="doc")
    found = scanned(source)
    with pytest.raises(ConfigError, match="column 'id' would stand beside the ids"):
        read_all(found, ["id"])
    with pytest.raises(ConfigError, match=r"column 't' is wanted as timestamp\[us\], which jsonl cannot hold"):
        read_all(found, ["t"], schema=pa.schema({"t": pa.timestamp("us")}))


def test_objects_are_read_as_json_text_but_are_no_text(tmp_path: Path) -> None:
    source = write(
        tmp_path,
        b'{"meta": {"a": [1, null]}, "t": "x"}',
        b'{"meta": 5, "t": {"no": "text"}}',
        b'{"meta": {}, "t": "y"}',
    )
    found = scanned(source)
    # What is frozen is kept as Arrow's own bytes and merged with other files; the mark must live through both.
    frozen = pa.ipc.read_schema(pa.py_buffer(pa.unify_schemas([found.schema, found.schema]).serialize().to_pybytes()))
    [result] = read_all(found, ["meta"], schema=frozen)
    assert result.table.to_pylist() == [
        {"id": "a.jsonl#0", "meta": '{"a":[1,null]}'},
        {"id": "a.jsonl#1", "meta": "5"},
        {"id": "a.jsonl#2", "meta": "{}"},
    ]
    assert result.table.schema.field("meta").metadata is None
    [result] = read_all(found, ["t"], schema=frozen)
    assert result.table["t"].to_pylist() == ["x", "y"]
    assert [bad.message for bad in result.bad] == ['column \'t\' holds {"no":"text"} (an object), expected string']


def test_a_key_that_rows_lack_is_null(tmp_path: Path) -> None:
    result = only(tmp_path, b'{"a": 1}', columns=["a", "b"], schema=pa.schema({"a": pa.int64(), "b": pa.float64()}))
    assert result.table.to_pylist() == [{"id": "a.jsonl#0", "a": 1, "b": None}]
    assert not result.bad


def test_bad_rows_are_plain_data() -> None:
    assert BadRow(1, None, None, "e", "m", "r") == BadRow(1, None, None, "e", "m", "r")
