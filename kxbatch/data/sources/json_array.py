"""A JSON array of objects, read object by object: a row begins with the brace that opens it and ends before the next one's.

The comma after an object, or the bracket that ends the array, stands at the end of its row. Of a file that is cut off within an
object or after it, the last row is bad: that something is missing is not passed over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from kxbatch.data.sources.jsonl import JsonLines, decode
from kxbatch.data.sources.lines import Fault
from kxbatch.data.sources.model import BoolArray, IntArray
from kxbatch.data.sources.rows import NEWLINE, QUOTE, RowBlock, Splitter
from kxbatch.data.sources.streams import byte_blocks, content_start
from kxbatch.errors import DataError

_BLANKS = b" \t\r\n"
_BACKSLASH, _BRACE = 92, 123
_HEAD_BYTES = 64 * 2**10


class JsonArray(JsonLines):
    """An open file of one JSON array."""

    def begin(self) -> tuple[int, int]:
        """See `LineFormat`: the first byte in the array.

        Raises:
            DataError: the file does not begin like an array.
        """
        start = content_start(self.source, self.options)
        small = replace(self.options, block_bytes=_HEAD_BYTES)
        head = next(byte_blocks(self.source, small, start), b"")
        inner = head.lstrip(_BLANKS)
        if not inner.startswith(b"["):
            hint = "; one object a line is format = 'jsonl' or 'cluener'" if inner.startswith(b"{") else ""
            raise DataError(f"{self.source.url}: no JSON array, it should begin with [{hint}")
        skipped = len(head) - len(inner[1:].lstrip(_BLANKS))
        return start + skipped, 1 + head[:skipped].count(b"\n")

    def splitter(self) -> Splitter:
        """See `LineFormat`."""
        return ObjectSplitter()

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`; only an array without objects has nothing but its end."""
        short = np.flatnonzero(block.lengths < _HEAD_BYTES).tolist()
        blank = np.zeros(len(block), np.bool_)
        blank[short] = [block.row(i).strip(_BLANKS) in (b"", b"]") for i in short]
        return blank

    def objects(self, rows: RowBlock) -> tuple[list[dict[str, Any]], dict[int, Fault]]:
        """See `JsonLines`."""
        lines = [row.rstrip(_BLANKS) for row in rows.rows()]
        found, faults = decode([line[:-1] if line[-1:] in (b",", b"]") else line for line in lines])
        if rows.unclosed and len(rows) - 1 not in faults:
            faults[len(rows) - 1] = Fault(
                "malformed-json", "the file is cut off here: neither a comma nor ] comes next"
            )
            found[-1] = {}
        return found, faults


class ObjectSplitter:
    """A brace that opens an object of the array ends the row before it.

    What a byte means depends on the quotes before it, and a quote counts unless an odd number of backslashes stands before it:
    cumulative sums and maxima, without a loop.
    """

    def __init__(self) -> None:
        self._newlines = 0
        self._depth = 0
        self._quoted = False
        self._escapes = 0  # backslashes that the last block ended with
        self._begun = False
        self._last = 0  # byte that is not blank

    @property
    def unclosed(self) -> bool:
        """See `Splitter`: whether an object is left open, or neither comma nor bracket came after it."""
        return self._depth > 0 or self._last not in b",]"

    def feed(self, block: bytes) -> tuple[IntArray, IntArray]:
        """See `Splitter`; the byte before the brace takes the newline's place, and may be in the block before."""
        codes = np.frombuffer(block, np.uint8)
        quoted = self._inside(codes)
        opens, closes = (np.isin(codes, list(marks)) & ~quoted for marks in (b"{[", b"}]"))
        depth = self._depth + np.cumsum(opens.astype(np.int64) - closes)
        braces = np.flatnonzero(opens & (codes == _BRACE) & (depth == 1))
        lines = self._newlines + np.cumsum(codes == NEWLINE)
        self._depth, self._newlines = int(depth[-1]), int(lines[-1])
        self._last = (block.rstrip(_BLANKS) or bytes([self._last]))[-1]
        if not self._begun and len(braces) and braces[0] == 0:
            braces = braces[1:]  # no row stands before the first
        self._begun = True
        return braces - 1, lines[braces]

    def _inside(self, codes: npt.NDArray[np.uint8]) -> BoolArray:
        """Which bytes stand in a string; its quotes are no matter."""
        places = np.arange(len(codes))
        other = np.maximum.accumulate(np.where(codes == _BACKSLASH, -1, places))  # the last byte that is no backslash
        run = np.where(other < 0, places + 1 + self._escapes, places - other)  # backslashes up to here
        before = np.concatenate([[self._escapes], run[:-1]])
        quotes = (codes == QUOTE) & (before % 2 == 0)
        inside: BoolArray = (np.cumsum(quotes) + self._quoted) % 2 == 1
        self._escapes, self._quoted = int(run[-1]), bool(inside[-1])
        return inside
