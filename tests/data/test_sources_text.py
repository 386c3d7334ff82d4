import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import ReadOptions, ReadResult, SourceFile, SourceScan, discover, read, scan
from kxbatch.errors import ConfigError

COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = st.lists(st.text(st.characters(exclude_characters="\n\r", exclude_categories=["Cs"]), max_size=10), max_size=20)


def write(folder: Path, data: bytes, name: str = "a.txt") -> SourceFile:
    (folder / name).write_bytes(data)
    return discover([name], base=folder)[0]


def results(source: SourceFile, target: int = 10**9, **options: Any) -> tuple[SourceScan, list[ReadResult]]:
    kept = ReadOptions(**options)
    found = scan(source, target_bytes=target, id_column=None, options=kept)
    reads = [
        read(source, cut, columns=["text"], schema=found.schema, id_column=None, options=kept) for cut in found.cuts
    ]
    return found, reads


@COMMON
@given(
    lines=LINES,
    end=st.sampled_from(["\n", "\r\n"]),
    closed=st.booleans(),
    target=st.integers(1, 50),
    block=st.integers(1, 40),
    packing=st.sampled_from(["", ".gz", ".zst"]),
)
def test_every_line_is_a_row_in_cuts_of_any_size(
    tmp_path: Path, lines: list[str], end: str, closed: bool, target: int, block: int, packing: str
) -> None:
    data = end.join(lines) + (end if closed and lines else "")
    expected = lines if not lines or closed or lines[-1] else lines[:-1]  # nothing after the last line end is no line
    codec = {".gz": "gzip", ".zst": "zstd"}.get(packing)
    stored = pa.compress(data.encode(), codec=codec, asbytes=True) if codec else data.encode()
    source = write(tmp_path, stored, f"a.txt{packing}")
    found, reads = results(source, target, block_bytes=block)
    assert found.rows == len(expected)
    assert [text for result in reads for text in result.table["text"].to_pylist()] == expected
    ids = [name for result in reads for name in result.table["id"].to_pylist()]
    assert ids == [f"{source.name}#{i}" for i in range(len(expected))]
    assert not any(result.bad for result in reads)


@COMMON
@given(
    data=st.lists(st.sampled_from([b"\n", b"\r", b"a", b"\xff", b"\xc3", b"\xa9"]), max_size=40).map(b"".join),
    target=st.integers(1, 30),
    block=st.integers(1, 20),
)
def test_bytes_that_are_not_utf8_are_set_aside_line_by_line(
    tmp_path: Path, data: bytes, target: int, block: int
) -> None:
    data = b"-" + data  # so that no byte order mark stands first
    _, reads = results(write(tmp_path, data), target, block_bytes=block)
    good = {name: text for result in reads for name, text in zip(*result.table.to_pydict().values(), strict=True)}
    bad = {row.row: row for result in reads for row in result.bad}
    lines = [line.removesuffix(b"\r\n").removesuffix(b"\n") for line in io.BytesIO(data)]
    for number, line in enumerate(lines):
        if line.decode("utf-8", "ignore").encode() == line:
            assert good[f"a.txt#{number}"] == line.decode()
        else:
            byte = len(line.decode("utf-8", "replace").split("\ufffd")[0].encode())
            assert bad[number].message == f"byte {byte} of the row (0x{line[byte]:02x}) is not UTF-8"
            assert (bad[number].line, bad[number].error) == (number + 1, "invalid-utf8")
    assert len(good) + len(bad) == len(lines)


@pytest.mark.parametrize("data", ["one\r\ntwo\n\n", "", "\ufeffé"])
def test_a_file_is_a_row(tmp_path: Path, data: str) -> None:
    (tmp_path / "s").mkdir()
    write(tmp_path, data.encode(), "s/a.txt")
    [source] = discover(["."], base=tmp_path)
    found, [result] = results(source, text_per="file")
    assert found.rows == 1
    assert result.table.to_pylist() == [{"id": "s/a.txt", "text": data.removeprefix("\ufeff")}]


def test_a_packed_file_is_a_row(tmp_path: Path) -> None:
    packed = pa.compress(b"one\ntwo", codec="zstd", asbytes=True)
    found, [result] = results(write(tmp_path, packed, "a.txt.zst"), text_per="file")
    assert [(cut.start, cut.stop, cut.bytes) for cut in found.cuts] == [(0, 7, 7)]
    assert result.table.to_pylist() == [{"id": "a.txt.zst", "text": "one\ntwo"}]


def test_words_for_a_file_that_is_no_row(tmp_path: Path) -> None:
    _, [result] = results(write(tmp_path, b"ab\xff"), text_per="file")
    [bad] = result.bad
    assert (bad.row, bad.line, bad.id, bad.error) == (0, 1, "a.txt", "invalid-utf8")
    assert bad.message == "byte 2 of the row (0xff) is not UTF-8"
    _, [result] = results(write(tmp_path, "é".encode() * 5000), text_per="file", max_line_bytes=9_999)
    [bad] = result.bad
    assert (bad.error, bad.message, bad.raw) == ("too-long", "longer than 9999 bytes", "é" * 500)
    assert result.table.num_rows == 0


def test_words_for_columns_that_text_does_not_have(tmp_path: Path) -> None:
    source = write(tmp_path, b"x\n")
    with pytest.raises(ConfigError, match=r"plain text has no column 'doc' for ids; leave input\.id out"):
        scan(source, target_bytes=10, id_column="doc", options=ReadOptions())
    found, _ = results(source)
    schema = pa.schema({"texts": pa.string()})
    for per in ("line", "file"):
        options = ReadOptions(text_per=per)
        with pytest.raises(ConfigError, match=r"no column 'texts'; did you mean 'text'\?"):
            read(source, found.cuts[0], columns=["texts"], schema=schema, id_column=None, options=options)
