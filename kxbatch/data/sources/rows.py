"""Where rows end, in a stream of bytes.

Blocks of bytes come in, blocks of whole rows go out; a row may span blocks. Memory is bounded by the block and the
limit on one row: of a longer row only its beginning is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from kxbatch.data.sources.model import BoolArray, IntArray

NEWLINE, RETURN, QUOTE = 10, 13, 34


@dataclass(frozen=True)
class RowBlock:
    """Rows that came together; arrays are int64[rows].

    Attributes:
        data: bytes that hold them.
        starts: first byte of each row in `data`.
        ends: one past the last byte, without the line end (LF or CR LF).
        after: position in the stream after the line end.
        numbers: physical row numbers.
        lines: numbers of their first lines, from 1.
        unclosed: the last row ends inside quotes.
    """

    data: bytes
    starts: IntArray
    ends: IntArray
    after: IntArray
    numbers: IntArray
    lines: IntArray
    unclosed: bool = False

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> RowBlock:
        """Rows from somewhere else, numbered anew."""
        sizes = np.array([len(row) + 1 for row in rows], np.int64)
        after, numbers = np.cumsum(sizes), np.arange(len(rows))
        return cls(b"\n".join(rows), after - sizes, after - 1, after, numbers, numbers + 1)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def lengths(self) -> IntArray:
        """Bytes of each row, int64[rows]."""
        return self.ends - self.starts

    def row(self, index: int) -> bytes:
        """The bytes of one row."""
        return self.data[self.starts[index] : self.ends[index]]

    def rows(self) -> list[bytes]:
        """The bytes of every row."""
        data = self.data
        return [data[a:b] for a, b in zip(self.starts.tolist(), self.ends.tolist(), strict=True)]

    def select(self, mask: BoolArray) -> RowBlock:
        """The rows where `mask` is true."""
        if mask.all():
            return self
        return RowBlock(
            self.data,
            self.starts[mask],
            self.ends[mask],
            self.after[mask],
            self.numbers[mask],
            self.lines[mask],
            self.unclosed and bool(mask[-1]),
        )

    def head(self, rows: int) -> RowBlock:
        """The first rows."""
        return self.select(np.arange(len(self)) < rows)


class Splitter(Protocol):
    """Finds the newlines that end rows, block after block."""

    @property
    def unclosed(self) -> bool:
        """Whether the stream, if it ended here, would end inside quotes."""
        ...

    def feed(self, block: bytes) -> tuple[IntArray, IntArray]:
        """Positions of row-ending newlines in the next block, and their ordinals (from 1) among all newlines."""
        ...


class LineSplitter:
    """Every newline ends a row."""

    unclosed = False

    def __init__(self) -> None:
        self._newlines = 0

    def feed(self, block: bytes) -> tuple[IntArray, IntArray]:
        """See `Splitter`."""
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == NEWLINE)
        ordinals = np.arange(self._newlines + 1, self._newlines + 1 + len(ends))
        self._newlines += len(ends)
        return ends, ordinals


class QuoteSplitter:
    """A newline outside quotes ends a row, by the rules of Python's csv module.

    A quote opens only at the beginning of a field; inside quotes `""` is a quote and any other quote closes; elsewhere
    a quote is a plain character. So of a run of quotes only its parity counts: an odd run at the beginning of a field
    turns the state over, an odd run elsewhere leaves it closed, an even run changes nothing. That is two cumulative
    maxima over the odd runs, without a loop.
    """

    def __init__(self, delimiter: str) -> None:
        self._delimiter = ord(delimiter)
        self._newlines = 0
        self._quoted = False  # the state before the run of quotes that _context ends with
        self._context = b"\n"  # the last byte that is no quote, then at most two quotes that stand for the run after it

    @property
    def unclosed(self) -> bool:
        """See `Splitter`."""
        if len(self._context) != 2:
            return self._quoted
        return not self._quoted and self._context[0] in (self._delimiter, NEWLINE)

    def feed(self, block: bytes) -> tuple[IntArray, IntArray]:
        """See `Splitter`."""
        text = self._context + block
        codes = np.frombuffer(text, np.uint8)
        newlines = np.flatnonzero(codes[len(self._context) :] == NEWLINE) + len(self._context)
        runs, states = self._states(text, codes)
        inside = states[np.searchsorted(runs, newlines)]
        ends = newlines[~inside] - len(self._context)
        ordinals = self._newlines + 1 + np.flatnonzero(~inside)
        self._newlines += len(newlines)
        self._remember(text, bool(states[-1]), runs, states)
        return ends, ordinals

    def _states(self, text: bytes, codes: np.typing.NDArray[np.uint8]) -> tuple[IntArray, BoolArray]:
        """Starts of odd runs of quotes, int64[r], and whether text is quoted before the first and after each, [r + 1]."""
        if b'"' not in text:
            return np.empty(0, np.int64), np.array([self._quoted])
        quotes = np.flatnonzero(codes == QUOTE)
        first = np.flatnonzero(np.diff(quotes, prepend=-2) != 1)
        odd = np.diff(first, append=len(quotes)) % 2 == 1
        runs = quotes[first[odd]]
        before = codes[runs - 1]  # there always is one: the context begins with a byte that is no quote
        opens = (before == self._delimiter) | (before == NEWLINE)
        turns = np.cumsum(opens)
        since = np.maximum.accumulate(np.where(opens, -1, turns))  # turns until the last run that surely closed
        states = np.where(since < 0, turns + self._quoted, turns - since) % 2 == 1
        return runs, np.concatenate([[self._quoted], states])

    def _remember(self, text: bytes, quoted: bool, runs: IntArray, states: BoolArray) -> None:
        run = len(text) - len(text.rstrip(b'"'))
        odd = run % 2 == 1
        self._context = text[-run - 1 : len(text) - run] + b'"' * (0 if run == 0 else 1 if odd else 2)
        self._quoted = bool(states[-2]) if odd else quoted


def row_blocks(
    blocks: Iterable[bytes], splitter: Splitter, *, offset: int, first_row: int, first_line: int, limit: int
) -> Iterator[RowBlock]:
    """Turns blocks of bytes into blocks of whole rows.

    Args:
        blocks: the bytes, in order, beginning at the start of a row.
        splitter: a fresh one.
        offset: position of the first byte in its stream.
        first_row: number of the first row.
        first_line: number of the first line.
        limit: of a row with more bytes, the first `limit + 1` are kept.

    Yields:
        Blocks with at least one row; the last row needs no newline.
    """
    carry, lost = b"", 0  # the beginning of an unfinished row, and how many bytes of it were let go
    row, line = first_row, first_line
    for block in blocks:
        ends, ordinals = splitter.feed(block)
        if lost and len(ends):
            size = int(ends[0]) + 1
            offset += len(carry) + lost + size
            yield _one_row(carry, offset, row, line)
            row, line = row + 1, first_line + int(ordinals[0])
            block, ends, ordinals = block[size:], ends[1:] - size, ordinals[1:]
            carry, lost = b"", 0
        if not len(ends):
            carry += block
            lost += max(0, len(carry) - limit - 1)
            carry = carry[: limit + 1]
            continue
        found = _whole_rows(carry + block, ends + len(carry), offset, row)
        lines = np.concatenate([[line], first_line + ordinals[:-1]])
        yield replace(found, lines=lines)
        row, line, offset = row + len(found), first_line + int(ordinals[-1]), int(found.after[-1])
        carry = block[int(ends[-1]) + 1 :]
        lost = max(0, len(carry) - limit - 1)
        carry = carry[: limit + 1]
    if carry:
        yield replace(_one_row(carry, offset + len(carry) + lost, row, line), unclosed=splitter.unclosed)


def _one_row(data: bytes, after: int, row: int, line: int) -> RowBlock:
    starts, ends = np.zeros(1, np.int64), np.full(1, len(data))
    return RowBlock(data, starts, ends, np.full(1, after), np.full(1, row), np.full(1, line))


def _whole_rows(data: bytes, newlines: IntArray, offset: int, row: int) -> RowBlock:
    """Rows between newlines; `lines` is left to the caller."""
    starts = np.concatenate([[0], newlines[:-1] + 1])
    codes = np.frombuffer(data, np.uint8)
    ends = newlines - ((newlines > starts) & (codes[newlines - 1] == RETURN))
    numbers = np.arange(row, row + len(starts))
    return RowBlock(data, starts, ends, newlines + 1 + offset, numbers, numbers)
