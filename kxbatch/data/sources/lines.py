"""What all line formats share: cutting a file into shards in one pass, and reading a cut with bad rows set aside."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from kxbatch.data.sources.ids import derived_ids, hash_ids, missing_ids
from kxbatch.data.sources.model import (
    RAW_CHARACTERS,
    BadRow,
    BoolArray,
    Cut,
    HashArray,
    ReadOptions,
    ReadResult,
    SourceFile,
)
from kxbatch.data.sources.rows import LineSplitter, RowBlock, Splitter, row_blocks
from kxbatch.data.sources.streams import byte_blocks, content_start
from kxbatch.errors import ConfigError, nearest

SAMPLE_ROWS = 1000
SAMPLE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Fault:
    """Why a row is bad; the words are those of `BadRow`."""

    error: str
    message: str


@dataclass(frozen=True)
class _Range:
    """Rows from a byte on; like a cut, but the end is not known yet."""

    start: int
    stop: int | None
    first_row: int
    first_line: int


@dataclass
class Parsed:
    """Rows of a block as columns, one value a row; a row with a fault may hold nulls."""

    columns: list[pa.Array]
    faults: dict[int, Fault] = field(default_factory=dict)


class LineFormat(ABC):
    """What one line format knows about one open file."""

    def __init__(self, source: SourceFile, options: ReadOptions) -> None:
        self.source = source
        self.options = options

    def begin(self) -> tuple[int, int]:
        """The byte where rows begin in the decompressed file, and the number of that line, from 1."""
        return content_start(self.source, self.options), 1

    def splitter(self) -> Splitter:
        """Finds the ends of rows."""
        return LineSplitter()

    @abstractmethod
    def blank(self, block: RowBlock) -> BoolArray:
        """Which lines are no rows, bool[len(block)]."""

    @abstractmethod
    def infer(self, rows: RowBlock) -> pa.Schema:
        """All columns, from the first rows of the file."""

    @abstractmethod
    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """Columns of rows; one array for each field."""


def require_columns(source: SourceFile, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Makes sure that columns exist, once.

    Raises:
        ConfigError: a column is missing or there twice.
    """
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"{source.url}: no column '{name}'{nearest(name, names)} (the file has: {', '.join(names) or 'none'})"
            )
        if list(names).count(name) > 1:
            raise ConfigError(f"{source.url}: column '{name}' is there {list(names).count(name)} times; rename one")


def infer_schema(format: LineFormat) -> pa.Schema:
    """Columns and types of a file, from the good ones of its first 1000 rows in its first 16 MiB; empty when it has none."""
    # Read in steps of a fixed size, whatever the block size, so that the same file always gives the same schema.
    options = replace(format.options, block_bytes=SAMPLE_BYTES)
    everything = _everything(format)
    sample: list[bytes] = []
    for block in _row_blocks(format, options, everything):
        usable = ~format.blank(block) & (block.lengths <= options.max_line_bytes)
        usable[-1] &= not block.unclosed
        sample += block.select(usable).head(SAMPLE_ROWS - len(sample)).rows()
        if len(sample) >= SAMPLE_ROWS or block.after[-1] - everything.start >= SAMPLE_BYTES:
            break
    return format.infer(RowBlock.of(sample))


def scan_lines(format: LineFormat, target_bytes: int, id_field: pa.Field | None) -> tuple[list[Cut], HashArray]:
    """Cuts a file in one streaming pass.

    Args:
        format: the open file.
        target_bytes: a cut is no larger, unless one row is.
        id_field: the id column, if ids are to be hashed.

    Returns:
        The cuts, and the hashes of usable ids (empty without an id column).
    """
    everything = _everything(format)
    cutter = _Cutter(target_bytes, everything.start, everything.first_line)
    hashes = [np.empty(0, np.uint64)]
    for block in _row_blocks(format, format.options, everything):
        counted = ~format.blank(block)
        cutter.add(block, counted)
        if id_field is not None:
            rows = block.select(counted & (block.lengths <= format.options.max_line_bytes))
            ids = format.parse(rows, [id_field]).columns[0]
            hashes.append(hash_ids(ids.filter(pa.array(~missing_ids(ids)))))
    return cutter.finish(), np.concatenate(hashes)


def read_lines(format: LineFormat, cut: Cut, fields: Sequence[pa.Field], id_field: pa.Field | None) -> ReadResult:
    """Reads a cut.

    Args:
        format: the open file.
        cut: one of its cuts.
        fields: columns and types to give beside `id`.
        id_field: the id column and its type; None derives ids.
    """
    plain = [field.remove_metadata() for field in fields]
    schema = pa.schema([pa.field("id", id_field.type if id_field else pa.string(), nullable=False), *plain])
    tables, bad = [schema.empty_table()], []
    for block in _row_blocks(format, format.options, cut):
        rows = block.select(~format.blank(block))
        short = rows.lengths <= format.options.max_line_bytes
        fault = Fault("too-long", f"longer than {format.options.max_line_bytes} bytes")
        for index in np.flatnonzero(~short).tolist():
            own = None if id_field else f"{format.source.name}#{rows.numbers[index]}"
            bad.append(_bad_row(rows, index, own, fault))
        table, set_aside = _read_block(format, rows.select(short), schema, fields, id_field)
        tables.append(table)
        bad += set_aside
    return ReadResult(pa.concat_tables(tables), sorted(bad, key=lambda row: row.row))


def _everything(format: LineFormat) -> _Range:
    start, line = format.begin()
    return _Range(start, None, 0, line)


def _row_blocks(format: LineFormat, options: ReadOptions, part: Cut | _Range) -> Iterator[RowBlock]:
    blocks = byte_blocks(format.source, options, part.start, part.stop, resume=part.stop is not None)
    return row_blocks(
        blocks,
        format.splitter(),
        offset=part.start,
        first_row=part.first_row,
        first_line=part.first_line,
        limit=options.max_line_bytes,
    )


def _read_block(
    format: LineFormat, rows: RowBlock, schema: pa.Schema, fields: Sequence[pa.Field], id_field: pa.Field | None
) -> tuple[pa.Table, list[BadRow]]:
    parsed = format.parse(rows, [*([id_field] if id_field else []), *fields])
    columns, faults = parsed.columns, parsed.faults
    if id_field is None:
        columns = [derived_ids(format.source, rows.numbers), *columns]
    else:
        for index in np.flatnonzero(missing_ids(columns[0])).tolist():
            faults.setdefault(index, Fault("missing-id", f"no value in the id column '{id_field.name}'"))
    table = pa.table(columns, schema=schema)
    if not faults:
        return table, []
    bad = []
    for index, fault in faults.items():
        value = columns[0][index].as_py()
        bad.append(_bad_row(rows, index, None if value is None else str(value), fault))
    good = np.ones(len(rows), bool)
    good[list(faults)] = False
    return table.filter(pa.array(good)), bad


def _bad_row(rows: RowBlock, index: int, id_: str | None, fault: Fault) -> BadRow:
    start = int(rows.starts[index])
    end = min(int(rows.ends[index]), start + 4 * RAW_CHARACTERS)  # no character is longer than 4 bytes
    raw = rows.data[start:end].decode("utf-8", "replace")[:RAW_CHARACTERS]
    return BadRow(int(rows.numbers[index]), int(rows.lines[index]), id_, fault.error, fault.message, raw)


class _Cutter:
    """Closes a cut before the row that would make it larger than the target."""

    def __init__(self, target_bytes: int, start: int, line: int) -> None:
        self._target = target_bytes
        self._cuts: list[Cut] = []
        self._open(start, 0, line)

    def _open(self, start: int, first_row: int, first_line: int) -> None:
        self._start, self._first_row, self._first_line = start, first_row, first_line
        self._stop, self._rows = start, 0

    def add(self, block: RowBlock, counted: BoolArray) -> None:
        """Takes the next rows; `counted` says which lines are rows."""
        done = 0
        while done < len(block):
            fitting = int(np.searchsorted(block.after, self._start + self._target, side="right"))
            if self._stop == self._start:  # an empty cut takes at least one row
                fitting = max(fitting, done + 1)
            if fitting > done:
                self._rows += int(counted[done:fitting].sum())
                self._stop = int(block.after[fitting - 1])
                done = fitting
            if done < len(block):
                self._close()
                self._open(self._stop, int(block.numbers[done]), int(block.lines[done]))

    def finish(self) -> list[Cut]:
        """All cuts."""
        self._close()
        return self._cuts

    def _close(self) -> None:
        if self._rows:  # nothing but blank lines is nothing to read
            size = self._stop - self._start
            self._cuts.append(Cut(self._start, self._stop, self._first_row, self._rows, size, self._first_line))
