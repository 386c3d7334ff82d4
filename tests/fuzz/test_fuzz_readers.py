"""Source files as nobody meant them: every row is read, set aside, or the file is refused; good ones round-trip exactly."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from fuzz.guard import put
from fuzz.mutations import damaged
from fuzz.profile import fuzzed
from fuzz.reader_case import SEEDS, ReadOptions, csv_bytes, packed, read_all
from fuzz.targets import source_file
from hypothesis import given
from hypothesis import strategies as st

from kxbatch.errors import DataError

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ODD = st.text(st.sampled_from("ab\",;\t\n'\\ #\u2028\ufeff\x85\x00é"), max_size=8)
BLOCKS = st.sampled_from([1, 3, 7, 64, 4096])


@pytest.mark.parametrize("name", SEEDS)
def test_damaged_files(name: str) -> None:
    @fuzzed(80)
    @given(damaged(SEEDS[name]))
    def check(data: bytes) -> None:
        source_file(name, data)

    check()


@pytest.mark.parametrize("codec", ["", ".gz", ".zst"])
def test_json_lines_round_trip(tmp_path: Path, codec: str) -> None:
    @fuzzed(100)
    @given(st.lists(TEXT, min_size=1, max_size=8), BLOCKS)
    def check(texts: list[str], block: int) -> None:
        data = b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)
        path = tmp_path / f"a.jsonl{codec}"
        put(path, packed(data, {".gz": "gzip", ".zst": "zstd"}[codec]) if codec else data)
        found = read_all(path, ReadOptions(block_bytes=block), target=40)
        assert [row["text"] for row in found.good.values()] == texts
        assert not found.bad

    check()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_csv_of_any_quoting_round_trips(tmp_path: Path, name: str) -> None:
    quotings = st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])

    @fuzzed(120)
    @given(
        st.lists(st.tuples(ODD, ODD), min_size=1, max_size=6),
        quotings,
        st.sampled_from(["\n", "\r\n"]),
        st.booleans(),
        BLOCKS,
    )
    def check(rows: list[tuple[str, str]], quoting: int, end: str, bom: bool, block: int) -> None:
        records = [["a", "b"], *map(list, rows)]
        delimiter = "," if name == "a.csv" else "\t"
        put(tmp_path / name, csv_bytes(records, quoting=quoting, end=end, delimiter=delimiter, bom=bom))
        found = read_all(tmp_path / name, ReadOptions(block_bytes=block), target=30)
        assert [(row["a"], row["b"]) for row in found.good.values()] == rows
        assert not found.bad

    check()


def test_csv_against_the_csv_module(tmp_path: Path) -> None:
    """Any text without stray carriage returns: as many rows as the csv module finds, and the same fields."""

    @fuzzed(150)
    @given(st.text(st.sampled_from('ab",\n \u2028'), max_size=60), BLOCKS)
    def check(body: str, block: int) -> None:
        put(tmp_path / "a.csv", f"a,b\n{body}".encode())
        found = read_all(tmp_path / "a.csv", ReadOptions(block_bytes=block), target=20)
        records = [record for record in csv.reader(_lines(body)) if record]
        whole = [record for record in records if len(record) == 2]
        unclosed = any(bad.error == "unclosed-quote" for bad in found.bad)
        assert found.rows == len(records)
        kept = whole[:-1] if unclosed and len(records[-1]) == 2 else whole
        assert [(row["a"], row["b"]) for row in found.good.values()] == [tuple(record) for record in kept]

    check()


def _lines(text: str) -> list[str]:
    """Lines as the file has them: only a newline ends one."""
    return [line + "\n" for line in text.split("\n")[:-1]] + (
        [text.rpartition("\n")[2]] if text.rpartition("\n")[2] else []
    )


def test_lengths_that_promise_too_much(tmp_path: Path) -> None:
    """Numbers in headers and footers that stand for gigabytes are damage, not an order to allocate."""
    footer = SEEDS["a.parquet"][0]
    for length in (0, 1, 2**20, 2**31 - 1, 2**32 - 1):
        path = tmp_path / "a.parquet"
        put(path, footer[:-8] + length.to_bytes(4, "little") + b"PAR1")
        assert isinstance(source_file("a.parquet", path.read_bytes()), DataError)
    claim = b"\x28\xb5\x2f\xfd\xe0" + (2**60).to_bytes(8, "little") + b"\x01\x00\x00"  # a zstd frame of 2^60 bytes
    assert isinstance(source_file("a.txt.zst", claim), DataError)
