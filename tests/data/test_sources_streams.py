import gzip
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import ReadOptions, SourceFile, discover, read, scan, streams
from kxbatch.data.sources.streams import byte_blocks
from kxbatch.errors import DataError

COMMON = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LINES = b"".join(b'{"n": %d}\n' % i for i in range(2000))


def write(folder: Path, data: bytes, name: str) -> SourceFile:
    (folder / name).write_bytes(data)
    return discover([name], base=folder)[0]


def packed(folder: Path, data: bytes, packing: str) -> SourceFile:
    codec = {"gz": "gzip", "zst": "zstd", "": None}[packing]
    stored = pa.compress(data, codec=codec, asbytes=True) if codec else data
    return write(folder, stored, f"a.jsonl.{packing}".removesuffix("."))


@COMMON
@given(
    data=st.binary(max_size=100),
    packing=st.sampled_from(["", "gz", "zst"]),
    ranges=st.lists(st.tuples(st.integers(0, 110), st.integers(0, 110)), max_size=4),
    block=st.integers(1, 50),
)
def test_any_sequence_of_ranges_gives_the_bytes_of_the_file(
    tmp_path: Path, data: bytes, packing: str, ranges: list[tuple[int, int]], block: int
) -> None:
    source = packed(tmp_path, data, packing)
    for start, stop in ranges:
        blocks = list(byte_blocks(source, ReadOptions(block_bytes=block), start, stop, resume=True))
        assert b"".join(blocks) == data[start:stop]
        assert all(0 < len(b) <= block for b in blocks)
    assert b"".join(byte_blocks(source, ReadOptions())) == data


def test_cuts_of_a_packed_file_in_order_unpack_it_once(tmp_path: Path) -> None:
    source = packed(tmp_path, LINES, "gz")
    found = scan(source, target_bytes=1000, id_column=None, options=ReadOptions())
    assert len(found.cuts) > 10
    opened = []
    for cut in found.cuts:
        before = streams._parked.get(source)
        result = read(source, cut, columns=["n"], schema=found.schema, id_column=None, options=ReadOptions())
        opened.append(streams._parked[source][0] is not (before[0] if before else None))
        assert result.table.num_rows == cut.rows
    assert opened == [True] + [False] * (len(found.cuts) - 1)


def test_packed_files_of_several_members_are_read_whole(tmp_path: Path) -> None:
    halves = LINES[: len(LINES) // 2], LINES[len(LINES) // 2 :]
    for packing, compress in (("gz", gzip.compress), ("zst", lambda b: pa.compress(b, codec="zstd", asbytes=True))):
        source = write(tmp_path, b"".join(map(compress, halves)), f"m.jsonl.{packing}")
        found = scan(source, target_bytes=10**9, id_column=None, options=ReadOptions(block_bytes=777))
        assert found.rows == 2000
        assert found.cuts[-1].stop == len(LINES)


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_words_for_a_damaged_packed_file(tmp_path: Path, packing: str) -> None:
    whole = Path(packed(tmp_path, LINES, packing).url).read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes(8) + whole[middle + 8 :]  # only gzip always carries a checksum
    for damaged in (whole[:-10], flipped if packing == "gz" else whole[:middle], whole + b"junk", LINES):
        source = write(tmp_path, damaged, f"bad.jsonl.{packing}")
        with pytest.raises(DataError) as caught:
            scan(source, target_bytes=10**9, id_column=None, options=ReadOptions())
        assert f"{source.url}: cannot be decompressed as .{packing} after " in str(caught.value)
        assert "truncated, corrupt, or not what its name says" in str(caught.value)


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_words_for_a_decompression_bomb(tmp_path: Path, packing: str) -> None:
    source = packed(tmp_path, b"[" * 70_000_000, packing)
    tracemalloc.start()
    with pytest.raises(DataError) as caught:
        scan(source, target_bytes=10**9, id_column=None, options=ReadOptions(max_ratio=500, max_line_bytes=10**6))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for words in (f"{source.url}: decompresses to more than ", "(limit 500)", "raise input.max_ratio"):
        assert words in str(caught.value)
    assert peak < 50_000_000
    found = scan(source, target_bytes=10**9, id_column=None, options=ReadOptions(max_ratio=10**6, max_line_bytes=10**6))
    assert found.rows == 1
    small = packed(tmp_path, b" " * 10_000_000, packing)  # far beyond the ratio, but too small to do harm
    assert scan(small, target_bytes=10**9, id_column=None, options=ReadOptions(max_ratio=2)).rows == 0


def test_words_for_a_file_that_changed(tmp_path: Path) -> None:
    source = packed(tmp_path, LINES, "")
    found = scan(source, target_bytes=10**9, id_column=None, options=ReadOptions())

    def words() -> str:
        with pytest.raises(DataError) as caught:
            read(source, found.cuts[0], columns=["n"], schema=found.schema, id_column=None, options=ReadOptions())
        return str(caught.value)

    os.utime(source.url, ns=(1, source.modified_ns + 1))
    assert f"{source.url}: changed since it was listed" in words()
    os.utime(source.url, ns=(1, source.modified_ns))
    with Path(source.url).open("ab") as file:
        file.write(b"{}\n")
    assert f"then {source.size} bytes" in words()
    assert f"now {source.size + 3} bytes" in words()
    Path(source.url).unlink()
    assert "gone since it was listed" in words()
    with pytest.raises(DataError, match="gone since it was listed"):
        scan(source, target_bytes=1, id_column=None, options=ReadOptions())


def test_words_for_a_cut_that_is_not_of_this_file(tmp_path: Path) -> None:
    source = packed(tmp_path, LINES, "")
    found = scan(source, target_bytes=10**9, id_column=None, options=ReadOptions())
    wrong = replace(found.cuts[0], rows=1999)
    with pytest.raises(DataError, match=r"1999 rows were planned from row 0 on, 2000 are there"):
        read(source, wrong, columns=["n"], schema=found.schema, id_column=None, options=ReadOptions())
