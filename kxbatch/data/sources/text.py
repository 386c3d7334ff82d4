"""Plain text: a row a line (empty lines too), or a row a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kxbatch.data.sources.lines import Fault, LineFormat, Parsed
from kxbatch.data.sources.model import (
    RAW_CHARACTERS,
    BadRow,
    BoolArray,
    Cut,
    ReadOptions,
    ReadResult,
    SourceFile,
)
from kxbatch.data.sources.rows import RowBlock
from kxbatch.data.sources.streams import byte_blocks, content_start

COLUMN = "text"
SCHEMA = pa.schema([pa.field(COLUMN, pa.string())])


def utf8_fault(line: bytes) -> Fault | None:
    """The fault of a row that is not UTF-8, None for one that is."""
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return Fault("invalid-utf8", f"byte {error.start} of the row (0x{line[error.start]:02x}) is not UTF-8")
    return None


class TextLines(LineFormat):
    """An open text file; its one column is `text`."""

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`; an empty line is a row with an empty text."""
        return np.zeros(len(block), bool)

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`."""
        return SCHEMA

    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """See `LineFormat`."""
        lines, faults = rows.rows(), {}
        try:
            column = pa.array(lines, pa.binary()).cast(pa.string())
        except pa.ArrowInvalid:
            found = [utf8_fault(line) for line in lines]
            faults = {index: fault for index, fault in enumerate(found) if fault}
            column = pa.array([None if fault else line for line, fault in zip(lines, found, strict=True)], pa.string())
        return Parsed([column.cast(field.type) for field in fields], faults)


def scan_whole(source: SourceFile, options: ReadOptions) -> list[Cut]:
    """The one cut of a file that is one row, even when it is empty."""
    start = content_start(source, options)
    size = source.size - start
    if source.compression != "none":
        size = sum(map(len, byte_blocks(source, options, start)))
    return [Cut(start, start + size, 0, 1, size, 1)]


def read_whole(source: SourceFile, cut: Cut, fields: Sequence[pa.Field], options: ReadOptions) -> ReadResult:
    """Reads a file as one row; its id is its name. A file beyond `max_line_bytes` is a bad row."""
    schema = pa.schema([pa.field("id", pa.string(), nullable=False), *fields])
    long = cut.bytes > options.max_line_bytes
    stop = min(cut.stop, cut.start + 4 * RAW_CHARACTERS) if long else cut.stop
    data = b"".join(byte_blocks(source, options, cut.start, stop))
    fault = Fault("too-long", f"longer than {options.max_line_bytes} bytes") if long else utf8_fault(data)
    if fault:
        raw = data[: 4 * RAW_CHARACTERS].decode("utf-8", "replace")[:RAW_CHARACTERS]
        return ReadResult(schema.empty_table(), [BadRow(0, 1, source.name, fault.error, fault.message, raw)])
    return ReadResult(pa.table([[source.name], *([data.decode()] for _ in fields)], schema=schema), [])
