import csv
import io
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources.rows import LineSplitter, QuoteSplitter, RowBlock, row_blocks

CSV_TEXT = st.text('",\n xé', max_size=40)
SIZES = st.integers(1, 9)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[i : i + size] for i in range(0, len(data), size))


def blocks(data: bytes, size: int, *, quotes: bool = False, limit: int = 1000) -> list[RowBlock]:
    splitter = QuoteSplitter(",") if quotes else LineSplitter()
    return list(row_blocks(pieces(data, size), splitter, offset=0, first_row=0, first_line=1, limit=limit))


def rows(data: bytes, size: int, *, quotes: bool = False) -> list[bytes]:
    return [row for block in blocks(data, size, quotes=quotes) for row in block.rows()]


@settings(deadline=None)
@given(data=st.binary(max_size=60).map(lambda b: b.replace(b"a", b"\n")), size=SIZES)
def test_lines_are_those_of_the_standard_library(data: bytes, size: int) -> None:
    expected = io.BytesIO(data).readlines()
    stripped = [line[:-2] if line.endswith(b"\r\n") else line.removesuffix(b"\n") for line in expected]
    assert rows(data, size) == stripped


@settings(deadline=None)
@given(text=CSV_TEXT, size=SIZES)
@example('a,"b\n""c"\n,""\nx""",y\n"', 1)
@example('"a"b"\n"c\n', 2)
def test_rows_of_csv_are_those_of_the_csv_module(text: str, size: int) -> None:
    found = rows(text.encode(), size, quotes=True)
    expected = list(csv.reader(io.StringIO(text, newline="")))
    assert [next(csv.reader([row.decode()]), []) for row in found] == expected


@settings(deadline=None)
@given(text=CSV_TEXT, size=SIZES)
def test_line_numbers_and_positions_of_csv(text: str, size: int) -> None:
    data = text.encode()
    reader = csv.reader(io.StringIO(text, newline=""))
    ends = [reader.line_num for _ in reader]
    found = blocks(data, size, quotes=True)
    assert [int(line) for block in found for line in block.lines] == [1, *(end + 1 for end in ends)][: len(ends)]
    assert [int(number) for block in found for number in block.numbers] == list(range(len(ends)))
    positions = [0, *(int(after) for block in found for after in block.after)]
    assert b"".join(data[a:b] for a, b in pairwise(positions)) == data


@settings(deadline=None)
@given(text=CSV_TEXT, size=SIZES)
def test_a_quote_that_stays_open_is_seen_at_the_end(text: str, size: int) -> None:
    # An open quote swallows a line end that is put behind it; nothing else does.
    swallowed = len(list(csv.reader(io.StringIO(text + "\nx", newline="")))) == len(
        list(csv.reader(io.StringIO(text + "x", newline="")))
    )
    found = blocks((text + "x").encode(), size, quotes=True)
    closes = text.endswith('"')  # then the added letter changes what the last quote means
    assert closes or found[-1].unclosed == swallowed
    assert not any(block.unclosed for block in found[:-1])


@settings(deadline=None)
@given(lengths=st.lists(st.integers(0, 30), max_size=12), size=SIZES, limit=st.integers(1, 12), last=st.booleans())
def test_of_a_long_row_only_the_beginning_is_kept_and_nothing_else_moves(
    lengths: list[int], size: int, limit: int, last: bool
) -> None:
    lines = [bytes([97 + i]) * length for i, length in enumerate(lengths)]
    data = b"\n".join(lines) + (b"\n" if last and lines else b"")
    expected = io.BytesIO(data).readlines()
    found = blocks(data, size, limit=limit)
    got = [row for block in found for row in block.rows()]
    assert len(got) == len(expected)
    for row, whole in zip(got, expected, strict=True):
        line = whole.removesuffix(b"\n")
        assert row == line if len(line) <= limit else line.startswith(row) and len(row) > limit
    assert [int(a) for block in found for a in block.after] == np.cumsum([len(e) for e in expected]).tolist()
    assert [int(n) for block in found for n in block.lines] == list(range(1, len(expected) + 1))


def test_memory_of_a_long_row_is_bounded() -> None:
    endless = (b"x" * 1000 for _ in range(5000))
    [block] = list(row_blocks(endless, LineSplitter(), offset=0, first_row=0, first_line=1, limit=10_000))
    assert len(block.data) == 10_001
    assert block.after.tolist() == [5_000_000]


@settings(deadline=None)
@given(mask=st.lists(st.booleans(), min_size=4, max_size=4))
def test_selection_keeps_what_belongs_to_a_row(mask: list[bool]) -> None:
    [block] = blocks(b'a\nbb\nccc\n"d', 100, quotes=True)[:1]
    chosen = block.select(np.array(mask[: len(block)]))
    expected = [row for row, keep in zip(block.rows(), mask, strict=False) if keep]
    assert chosen.rows() == expected
    assert [len(row) for row in expected] == chosen.lengths.tolist() == (chosen.numbers + 1).tolist()
