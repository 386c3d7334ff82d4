"""CSV and TSV, with a header row or without.

Quotes work as in Python's csv module: a quoted field may hold delimiters, line ends and doubled quotes. Blocks of rows without
a fault go through Arrow's parser; any fault sends the block through the csv module row by row, which tells exactly whose
it is. TSV may be read without quotes: then a tab always ends a field, and a line end a row. Blank lines are no rows, unless
the file has one column only: there they hold an empty value.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from kxbatch.data.sources.lines import Fault, LineFormat, Parsed, require_columns
from kxbatch.data.sources.model import BoolArray, ReadOptions, SourceFile
from kxbatch.data.sources.rows import LineSplitter, QuoteSplitter, RowBlock, Splitter, row_blocks
from kxbatch.data.sources.streams import byte_blocks, content_start
from kxbatch.data.sources.text import utf8_fault
from kxbatch.data.sources.values import from_text, text_kind
from kxbatch.errors import DataError

DELIMITERS = {"csv": ",", "tsv": "\t"}
HEADER_BLOCK_BYTES = 64 * 2**10


class Delimited(LineFormat):
    """An open CSV or TSV file; its header is read at once, unless the options name its columns.

    Raises:
        DataError: the header cannot be read.
    """

    def __init__(self, source: SourceFile, options: ReadOptions) -> None:
        super().__init__(source, options)
        self._delimiter = DELIMITERS[source.format]
        self._quotes = options.tsv_quotes or source.format != "tsv"
        if options.names is not None:
            self.names, self._begin = list(options.names), super().begin()
        else:
            self.names, self._begin = self._read_header()

    def begin(self) -> tuple[int, int]:
        """See `LineFormat`."""
        return self._begin

    def splitter(self) -> Splitter:
        """See `LineFormat`."""
        return QuoteSplitter(self._delimiter) if self._quotes else LineSplitter()

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`."""
        blank: BoolArray = (block.lengths == 0) & (len(self.names) != 1)
        return blank

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`."""
        if self.options.types == "text":
            return pa.schema([pa.field(name, pa.string()) for name in self.names])
        columns, faults = self._fields(rows, range(len(self.names)))
        good = pa.array([index not in faults for index in range(len(rows))], pa.bool_())
        kinds = [text_kind(column.filter(good)) for column in columns]
        return pa.schema([pa.field(name, kind) for name, kind in zip(self.names, kinds, strict=True)])

    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """See `LineFormat`.

        Raises:
            ConfigError: the file lacks a column.
        """
        require_columns(self.source, self.names, [field.name for field in fields])
        texts, faults = self._fields(rows, [self.names.index(field.name) for field in fields])
        columns = []
        for field, text in zip(fields, texts, strict=True):
            column, misfits = from_text(text, field.type)
            columns.append(column)
            for index, reason in misfits.items():
                faults.setdefault(index, Fault("wrong-type", f"column '{field.name}' {reason}"))
        return Parsed(columns, faults)

    def _read_header(self) -> tuple[list[str], tuple[int, int]]:
        start = content_start(self.source, self.options)
        limit = self.options.max_line_bytes
        small = replace(self.options, block_bytes=min(HEADER_BLOCK_BYTES, self.options.block_bytes))
        blocks = byte_blocks(self.source, small, start)
        for block in row_blocks(blocks, self.splitter(), offset=start, first_row=0, first_line=1, limit=limit):
            found = np.flatnonzero(block.lengths)
            if len(found):
                return self._header(block, int(found[0]))
        return [], (start, 1)

    def _header(self, block: RowBlock, index: int) -> tuple[list[str], tuple[int, int]]:
        row = block.row(index)
        values = self._split(row)
        if len(row) > self.options.max_line_bytes:
            values = Fault("too-long", f"longer than {self.options.max_line_bytes} bytes")
        elif block.unclosed and index == len(block) - 1:
            values = Fault("unclosed-quote", "a quote is opened and never closed")
        if isinstance(values, Fault):
            raise DataError(
                f"{self.source.url}: the header (line {block.lines[index]}) cannot be read: {values.message}"
            )
        line = int(block.lines[index]) + row.count(b"\n") + 1
        return values, (int(block.after[index]), line)

    def _fields(self, rows: RowBlock, wanted: Iterable[int]) -> tuple[list[pa.Array], dict[int, Fault]]:
        """Columns by position as text, empty for bad rows."""
        positions = list(wanted)
        fast = self._fields_at_once(rows, positions)
        return (fast, {}) if fast is not None else self._fields_row_by_row(rows, positions)

    def _fields_at_once(self, rows: RowBlock, positions: list[int]) -> list[pa.Array] | None:
        """The columns if Arrow finds no fault in the rows, else None."""
        if not len(rows) or rows.unclosed:
            return None
        data = rows.data[int(rows.starts[0]) : int(rows.ends[-1])] + b"\n"
        # To Arrow a bare carriage return ends a row, and a byte order mark is never data.
        if data.count(b"\r") != data.count(b"\r\n") or data.startswith(b"\xef\xbb\xbf"):
            return None
        names = [str(i) for i in range(len(self.names))]
        used = [names[i] for i in positions] or names[:1]
        try:
            table = pacsv.read_csv(
                pa.BufferReader(data),
                read_options=pacsv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
                parse_options=pacsv.ParseOptions(
                    delimiter=self._delimiter,
                    quote_char='"' if self._quotes else False,
                    newlines_in_values=self._quotes,
                    ignore_empty_lines=len(names) > 1,
                ),
                convert_options=pacsv.ConvertOptions(
                    include_columns=list(dict.fromkeys(used)), column_types=dict.fromkeys(used, pa.string())
                ),
            )
        except pa.ArrowInvalid:
            return None
        if table.num_rows != len(rows):
            return None
        return [table[names[i]].combine_chunks() for i in positions]

    def _fields_row_by_row(self, rows: RowBlock, positions: list[int]) -> tuple[list[pa.Array], dict[int, Fault]]:
        found: list[Sequence[str]] = []
        faults: dict[int, Fault] = {}
        nothing = [""] * len(self.names)
        for index, row in enumerate(rows.rows()):
            values = self._split(row)
            if rows.unclosed and index == len(rows) - 1:
                values = Fault(
                    "unclosed-quote",
                    "a quote is opened and never closed; the row goes on to the end of the file",
                )
            elif not isinstance(values, Fault) and len(values) != len(self.names):
                values = Fault("field-count", f"{len(values)} fields, {self._whose} {len(self.names)}")
            if isinstance(values, Fault):
                faults[index] = values
            found.append(nothing if isinstance(values, Fault) else values)
        return [pa.array([values[i] for values in found], pa.string()) for i in positions], faults

    @property
    def _whose(self) -> str:
        return "the header has" if self.options.names is None else "input.names has"

    def _split(self, row: bytes) -> list[str] | Fault:
        fault = utf8_fault(row)
        if fault:
            return fault
        if not self._quotes:
            return row.decode().split(self._delimiter)
        # The csv module refuses fields beyond a limit of its own, one for the whole process.
        csv.field_size_limit(max(csv.field_size_limit(), len(row)))
        try:
            return next(csv.reader([row.decode()], delimiter=self._delimiter)) or [""]
        except csv.Error:
            return Fault("malformed-csv", "a carriage return stands outside quotes; line ends are \\n or \\r\\n")
