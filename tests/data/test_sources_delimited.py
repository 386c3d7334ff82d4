import csv
import io
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import ReadOptions, ReadResult, SourceFile, SourceScan, discover, read, scan
from kxbatch.data.sources.delimited import Delimited
from kxbatch.data.sources.rows import QuoteSplitter, row_blocks
from kxbatch.errors import ConfigError, DataError

COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIELD = st.text('a1",\t \n\ré', max_size=5)


def write(folder: Path, data: bytes, name: str = "a.csv") -> SourceFile:
    (folder / name).write_bytes(data)
    return discover([name], base=folder)[0]


def scanned(source: SourceFile, target: int = 10**9, id_column: str | None = None, **options: Any) -> SourceScan:
    return scan(source, target_bytes=target, id_column=id_column, options=ReadOptions(**options))


def read_all(
    found: SourceScan, columns: list[str], id_column: str | None = None, schema: pa.Schema | None = None, **options: Any
) -> list[ReadResult]:
    kept = ReadOptions(**options)
    frozen = schema or found.schema
    return [
        read(found.source, cut, columns=columns, schema=frozen, id_column=id_column, options=kept) for cut in found.cuts
    ]


@COMMON
@given(
    rows=st.lists(st.tuples(FIELD, FIELD), max_size=15),
    tab=st.booleans(),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([0, 1]),
    target=st.integers(1, 80),
    block=st.integers(1, 50),
)
def test_what_the_csv_module_wrote_is_read_back_in_cuts_of_any_size(
    tmp_path: Path, rows: list[tuple[str, str]], tab: bool, end: str, quoting: Literal[0, 1], target: int, block: int
) -> None:
    if end == "\n" and quoting == csv.QUOTE_MINIMAL:  # the module leaves a carriage return bare then
        rows = [(a.replace("\r", ""), b.replace("\r", "")) for a, b in rows]
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter="\t" if tab else ",", lineterminator=end, quoting=quoting)
    writer.writerows([("x", "y\n"), *rows])
    source = write(tmp_path, file.getvalue().encode(), "a.tsv" if tab else "a.csv")
    found = scanned(source, target, block_bytes=block)
    assert found.rows == len(rows)
    schema = pa.schema({"x": pa.string(), "y\n": pa.string()})
    results = read_all(found, ["x", "y\n"], schema=schema, block_bytes=block)
    assert not [bad for result in results for bad in result.bad]
    table = pa.concat_tables([schema.empty_table(), *(result.table.select(["x", "y\n"]) for result in results)])
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    ids = [name for result in results for name in result.table["id"].to_pylist()]
    assert ids == [f"{source.name}#{i}" for i in range(len(rows))]


@COMMON
@given(body=st.text('a1",\n\ré', max_size=40).map(str.encode), target=st.integers(1, 30), block=st.integers(1, 20))
@example(b'a,b\n"x', 5, 3)
@example(b"\xef\xbb\xbfa,b\n", 100, 3)
def test_no_row_is_ever_lost(tmp_path: Path, body: bytes, target: int, block: int) -> None:
    found = scanned(write(tmp_path, b"x,y\n" + body), target, block_bytes=block)
    schema = pa.schema({"x": pa.string(), "y": pa.int64()})
    results = read_all(found, ["x", "y"], schema=schema, block_bytes=block)
    for cut, result in zip(found.cuts, results, strict=True):
        assert result.table.num_rows + len(result.bad) == cut.rows
    # The rows and their numbers do not depend on cuts and blocks.
    whole = read_all(scanned(found.source), ["x", "y"], schema=schema)
    tables, wholes = ([result.table.to_pylist() for result in r] for r in (results, whole))
    assert [row for table in tables for row in table] == [row for table in wholes for row in table]
    assert [bad for result in results for bad in result.bad] == [bad for result in whole for bad in result.bad]


@COMMON
@given(body=st.text('a1",\n\ré\0', max_size=40), columns=st.integers(1, 3))
@example("a\n\n\nb", 1)
@example('a,"b"c"\n', 2)
@example("\ufeffa,b\n", 2)
def test_fast_and_exact_path_give_the_same(tmp_path: Path, body: str, columns: int) -> None:
    names = ["x", "y", "z"][:columns]
    format = Delimited(write(tmp_path, ",".join(names).encode() + b"\n"), ReadOptions())
    for block in row_blocks([body.encode()], QuoteSplitter(","), offset=0, first_row=0, first_line=1, limit=1000):
        rows = block.select(~format.blank(block))
        exact, faults = format._fields_row_by_row(rows, list(range(columns)))
        fast = format._fields_at_once(rows, list(range(columns)))
        if fast is not None:
            assert not faults
            assert [column.to_pylist() for column in fast] == [column.to_pylist() for column in exact]
        elif rows and not rows.unclosed:
            assert faults or "\r" in body or body.startswith("\ufeff")


def test_the_fast_path_takes_whole_blocks_of_good_rows(tmp_path: Path) -> None:
    format = Delimited(write(tmp_path, b"x,y\n"), ReadOptions())
    data = b'1,"a\n""b"\r\n\r\n2,\n'
    [block] = list(row_blocks([data], QuoteSplitter(","), offset=0, first_row=0, first_line=2, limit=1000))
    fast = format._fields_at_once(block.select(~format.blank(block)), [1, 0])
    assert fast is not None
    assert [column.to_pylist() for column in fast] == [['a\n"b', ""], ["1", "2"]]


def test_files_of_polars_and_types(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "doc": ["00", "01", "02"],
            "n": [1, None, -3],
            "x": [0.5, None, float("inf")],
            "ok": [True, False, None],
            "text": ["a,b", 'say "x"\nline', "é"],
        }
    )
    frame.write_csv(tmp_path / "a.csv")
    packed = pa.compress((tmp_path / "a.csv").read_bytes(), codec="gzip", asbytes=True)
    for source in (discover(["a.csv"], base=tmp_path)[0], write(tmp_path, packed, "b.csv.gz")):
        found = scanned(source, 10, "doc")
        kinds = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.string()]
        assert found.schema == pa.schema(list(zip(frame.columns, kinds, strict=True)))
        assert len(found.cuts) == 3
        table = pa.concat_tables([r.table for r in read_all(found, frame.columns[1:], "doc")])
        assert table.to_pylist() == frame.rename({"doc": "id"}).to_dicts()


def test_blank_lines_and_numbers(tmp_path: Path) -> None:
    source = write(tmp_path, b'\n\nx,"y\n2"\n\n1,"a\nb"\n\n\n2\n3,4\n')
    found = scanned(source)
    assert found.rows == 3
    [result] = read_all(found, ["x", "y\n2"])
    assert result.table.to_pylist() == [
        {"id": "a.csv#1", "x": 1, "y\n2": "a\nb"},
        {"id": "a.csv#5", "x": 3, "y\n2": "4"},
    ]
    [bad] = result.bad
    assert (bad.row, bad.line, bad.error, bad.message) == (4, 10, "field-count", "1 fields, the header has 2")


def test_a_blank_line_of_a_single_column_is_an_empty_value(tmp_path: Path) -> None:
    pl.DataFrame({"n": [1, None, 3]}).write_csv(tmp_path / "n.csv")
    [result] = read_all(scanned(discover(["n.csv"], base=tmp_path)[0]), ["n"])
    assert result.table["n"].to_pylist() == [1, None, 3]
    [texts] = read_all(scanned(write(tmp_path, b'x\r\na\r\n\r\n""\r\n')), ["x"])
    assert texts.table["x"].to_pylist() == ["a", "", ""]


def test_an_empty_field_is_null_but_for_text(tmp_path: Path) -> None:
    [result] = read_all(scanned(write(tmp_path, b'n,t\n1,a\n,\n"",""\n')), ["n", "t"])
    assert result.table.select(["n", "t"]).to_pylist() == [{"n": 1, "t": "a"}] + [{"n": None, "t": ""}] * 2


@pytest.mark.parametrize(
    ("row", "error", "words"),
    [
        (b"1", "field-count", "1 fields, the header has 2"),
        (b"1,2,3", "field-count", "3 fields, the header has 2"),
        (b"a,2", "wrong-type", "column 'n' holds \"a\" (a string), expected int64"),
        (b"1,\xffb", "invalid-utf8", "byte 2 of the row (0xff) is not UTF-8"),
        (b"1,a\rb", "malformed-csv", "a carriage return stands outside quotes"),
        (b'1,"a', "unclosed-quote", "a quote is opened and never closed; the row goes on to the end of the file"),
        (b"1," + b"y" * 200, "too-long", "longer than 150 bytes"),
    ],
)
def test_words_for_bad_rows(tmp_path: Path, row: bytes, error: str, words: str) -> None:
    source = write(tmp_path, b'n,t\n1,"x\ny"\n' + row)
    schema = pa.schema({"n": pa.int64(), "t": pa.string()})
    options: dict[str, Any] = {"max_line_bytes": 150, "block_bytes": 64}
    [result] = read_all(scanned(source, **options), ["n", "t"], schema=schema, **options)
    assert result.table.to_pylist() == [{"id": "a.csv#0", "n": 1, "t": "x\ny"}]
    [bad] = result.bad
    assert (bad.row, bad.line, bad.id, bad.error) == (1, 4, "a.csv#1", error)
    assert words in bad.message
    assert bad.raw == row.decode("utf-8", "replace")[:151]


def test_an_unclosed_quote_takes_the_rest_of_the_file_as_one_bad_row(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, b'a,b\n1,2\n3,"4\n5,6\n' + b"7,8\n" * 1000), max_line_bytes=500, block_bytes=100)
    assert found.rows == 2
    [result] = read_all(found, ["a"], max_line_bytes=500, block_bytes=100)
    assert [bad.error for bad in result.bad] == ["too-long"]


def test_fields_beyond_the_limit_of_the_csv_module(tmp_path: Path) -> None:
    long = "y" * 200_000
    [result] = read_all(scanned(write(tmp_path, f"a,b\n1,{long}\n2\n".encode())), ["b"])
    assert result.table["b"].to_pylist() == [long]
    assert [bad.error for bad in result.bad] == ["field-count"]


def test_ids_and_their_hashes(tmp_path: Path) -> None:
    source = write(tmp_path, b"doc,t\na,1\nb,2\n,3\nx\na,4\n")
    found = scanned(source, id_column="doc")
    assert found.id_hashes is not None
    first, second, third = found.id_hashes.tolist()
    assert first == third != second
    [result] = read_all(found, ["t"], "doc")
    assert result.table["id"].to_pylist() == ["a", "b", "a"]
    assert [(bad.row, bad.error) for bad in result.bad] == [(2, "missing-id"), (3, "field-count")]


def test_header_alone_and_no_header(tmp_path: Path) -> None:
    for data in (b"", b"\n\n", b"\xef\xbb\xbf"):
        found = scanned(write(tmp_path, data))
        assert (found.cuts, found.schema.names) == ((), [])
    found = scanned(write(tmp_path, b"\xef\xbb\xbfa,b"), id_column="a")
    assert (found.rows, found.schema.names) == (0, ["a", "b"])


def test_words_for_columns_that_cannot_be(tmp_path: Path) -> None:
    found = scanned(write(tmp_path, b"doc,text,text\n1,x,y\n"))
    with pytest.raises(ConfigError, match=r"no column 'txt'; did you mean 'text'\? \(the file has: doc, text, text\)"):
        read_all(found, ["txt"], schema=pa.schema({"txt": pa.string()}))
    with pytest.raises(ConfigError, match="column 'text' is there 2 times; rename one"):
        read_all(found, ["text"], schema=pa.schema({"text": pa.string()}))
    with pytest.raises(ConfigError, match=r"column 'doc' is wanted as list<item: double>, which csv cannot hold"):
        read_all(found, ["doc"], schema=pa.schema({"doc": pa.list_(pa.float64())}))
    with pytest.raises(ConfigError, match="no column 'dco'; did you mean 'doc'"):
        scanned(found.source, id_column="dco")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"a,\xff\n1,2\n", "byte 2 of the row (0xff) is not UTF-8"),
        (b'a,"b\n1,2\n', "a quote is opened and never closed"),
        (b"a\rb\n1\n", "a carriage return stands outside quotes"),
        (b"a" * 200 + b"\n1\n", "longer than 100 bytes"),
    ],
)
def test_words_for_a_header_that_cannot_be_read(tmp_path: Path, header: bytes, words: str) -> None:
    source = write(tmp_path, header)
    with pytest.raises(DataError) as caught:
        scanned(source, max_line_bytes=100)
    assert f"{source.url}: the header (line 1) cannot be read: " in str(caught.value)
    assert words in str(caught.value)
