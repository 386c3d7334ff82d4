"""CoNLL: a token a line with its columns, the first the token, the last its tag; blank lines part the sentences.

Columns are parted by blanks or tabs. A row is a sentence: `text`, its tokens joined, and `labels`, the spans its tags say (see
`tagging`). Lines of `-DOCSTART-` are passed over, and so are comments: lines that begin with `#` and do not end in a tag, for
`#` is also a token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import pyarrow as pa

from kxbatch.data.sources.lines import Fault, LineFormat, Parsed, require_columns
from kxbatch.data.sources.model import BoolArray, IntArray
from kxbatch.data.sources.rows import NEWLINE, RowBlock, Splitter
from kxbatch.data.sources.tagging import is_tag, spans_of_tags
from kxbatch.data.sources.text import utf8_fault
from kxbatch.data.spans import SPANS, Span, to_spans

SCHEMA = pa.schema([pa.field("text", pa.string()), pa.field("labels", SPANS)])

_BLANKS = (9, NEWLINE, 13, 32)
_START = "-DOCSTART-"
_BETWEEN = re.compile(r"[ \t]+")


class Conll(LineFormat):
    """An open CoNLL file; its columns are text and labels."""

    def splitter(self) -> Splitter:
        """See `LineFormat`."""
        return SentenceSplitter()

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`; comments alone, or the mark of a document, are no sentence."""
        codes = np.frombuffer(block.data, np.uint8)
        blank: BoolArray = block.lengths == 0
        whole = block.lengths <= self.options.max_line_bytes  # of the others nobody knows what comes after a comment
        # Few rows begin with anything else than a token, so only those are looked at.
        first = codes[np.minimum(block.starts, len(codes) - 1)]
        suspects = np.flatnonzero(~blank & whole & np.isin(first, (*_BLANKS, *b"#-")))
        blank[suspects] = [not _lines(block.row(i).decode("utf-8", "replace")) for i in suspects.tolist()]
        return blank

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`."""
        return SCHEMA

    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """See `LineFormat`.

        Raises:
            ConfigError: a column that no such file has.
        """
        require_columns(self.source, SCHEMA.names, [field.name for field in fields])
        texts: list[str | None] = []
        labels: list[list[Span] | None] = []
        faults: dict[int, Fault] = {}
        wants_labels = any(field.name == "labels" for field in fields)
        for index, row in enumerate(rows.rows()):
            found = _columns(row, int(rows.lines[index]))
            tokens, tags = ([], []) if isinstance(found, Fault) else found
            spans = spans_of_tags(tags) if wants_labels else []
            for fault in (found, spans):
                if isinstance(fault, Fault):
                    faults.setdefault(index, fault)
            texts.append(self.options.join.join(tokens))
            labels.append(None if isinstance(spans, Fault) else self._in_text(tokens, spans))
        made = {"text": pa.array(texts, pa.string()), "labels": to_spans(labels)}
        return Parsed([made[field.name].cast(field.type) for field in fields], faults)

    def _in_text(self, tokens: Sequence[str], spans: Sequence[Span]) -> list[Span]:
        """Spans of tokens as spans of the joined text."""
        between = len(self.options.join)
        starts = list(accumulate((len(token) + between for token in tokens), initial=0))
        return [(starts[first], starts[end] - between, type_) for first, end, type_ in spans]


class SentenceSplitter:
    """The newline of a blank line after a line that is not blank ends a row; further blank lines belong to the next row."""

    unclosed = False

    def __init__(self) -> None:
        self._newlines = 0
        self._solid = False  # whether the line that is not finished holds more than blanks
        self._after_solid = False  # whether the line before it does

    def feed(self, block: bytes) -> tuple[IntArray, IntArray]:
        """See `Splitter`."""
        codes = np.frombuffer(block, np.uint8)
        newlines = np.flatnonzero(codes == NEWLINE)
        until = np.concatenate([[0], np.cumsum(~np.isin(codes, _BLANKS))])  # solid bytes before each byte
        counts = np.diff(until[newlines], prepend=0)
        solid = counts > 0
        if not len(newlines):
            self._solid |= bool(until[-1])
            return newlines, newlines
        solid[0] |= self._solid
        before = np.concatenate([[self._after_solid], solid[:-1]])
        ends = ~solid & before
        ordinals = self._newlines + 1 + np.flatnonzero(ends)
        self._newlines += len(newlines)
        self._solid, self._after_solid = bool(until[-1] > until[newlines[-1]]), bool(solid[-1])
        return newlines[ends], ordinals


def _lines(sentence: str) -> list[tuple[int, list[str]]]:
    """Columns of the lines that hold a token, and how many lines stand before each."""
    found = []
    for number, line in enumerate(sentence.split("\n")):
        columns = _BETWEEN.split(line.strip(" \t\r"))
        comment = columns[0].startswith("#") and not (len(columns) > 1 and is_tag(columns[-1]))
        if columns[0] not in ("", _START) and not comment:
            found.append((number, columns))
    return found


def _columns(row: bytes, first_line: int) -> tuple[list[str], list[str]] | Fault:
    """Tokens and tags of a sentence."""
    fault = utf8_fault(row)
    if fault:
        return fault
    lines = _lines(row.decode())
    for number, columns in lines:
        if len(columns) < 2:
            return Fault("field-count", f"line {first_line + number} has one column; a token and its tag are needed")
    return [columns[0] for _, columns in lines], [columns[-1] for _, columns in lines]
