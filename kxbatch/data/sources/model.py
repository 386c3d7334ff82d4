"""The nouns of reading: a source file, a cut of it, what a scan found, what a read gave.

Numbers of rows are *physical* and begin at 0. In line formats a row's number counts every line that could have been a
row, so a blank line of JSONL keeps its number though it is no row; a record of CSV, a sentence of CoNLL or an object of an array
is counted once however many lines it spans, and a header is not counted. So the number of a row, and with it a derived id,
never depends on what else in the file is good or bad.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Format = Literal["parquet", "jsonl", "csv", "tsv", "text", "nt", "conll", "cluener", "cmeee"]
Compression = Literal["none", "gz", "zst"]

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
HashArray = npt.NDArray[np.uint64]

RAW_CHARACTERS = 500


@dataclass(frozen=True)
class ReadOptions:
    """How to read line formats.

    Attributes:
        text_per: plain text gives a row per line or a row per file.
        max_ratio: largest believable ratio of decompressed to compressed bytes.
        max_line_bytes: a longer row is set aside without being held in memory.
        block_bytes: how many bytes are read and parsed at a time.
        names: columns of CSV and TSV files that have no header; None: their first row says.
        types: whether columns of CSV and TSV files may be numbers, or are text whatever they hold.
        tsv_quotes: whether a field of a TSV file may stand in quotes; else a quote is a character like others.
        join: what stands between the tokens of a CoNLL file in its texts.
    """

    text_per: Literal["line", "file"] = "line"
    max_ratio: float = 1000.0
    max_line_bytes: int = 64 * 2**20
    block_bytes: int = 4 * 2**20
    names: tuple[str, ...] | None = None
    types: Literal["infer", "text"] = "infer"
    tsv_quotes: bool = True
    join: str = " "


@dataclass(frozen=True)
class SourceFile:
    """A file of the input as it was when it was listed.

    Attributes:
        url: absolute path or URL.
        name: path relative to the wildcard-free folder of the pattern it came from; derived ids begin with it.
        size: bytes as stored.
        modified_ns: time of the last change, nanoseconds since 1970; 0 where the store does not say.
        format: what is inside.
        compression: how it is packed, by its name.
    """

    url: str
    name: str
    size: int
    modified_ns: int
    format: Format
    compression: Compression


@dataclass(frozen=True)
class Cut:
    """A run of rows of one file; one future shard.

    Attributes:
        start: first row group (Parquet), or first byte of the decompressed file.
        stop: one past the last of them.
        first_row: physical number of the first row.
        rows: rows, good and bad, without blank lines.
        bytes: uncompressed size.
        first_line: number of the first line, from 1; 0 for Parquet.
    """

    start: int
    stop: int
    first_row: int
    rows: int
    bytes: int
    first_line: int = 0


@dataclass(frozen=True)
class SourceScan:
    """What one pass over a file found.

    Attributes:
        source: the file.
        cuts: disjoint, in order, together all rows.
        schema: all columns; for line formats inferred from the first rows.
        rows: rows of all cuts.
        id_hashes: `hash_ids` of the usable values of the id column, uint64[at most rows]; None without one.
    """

    source: SourceFile
    cuts: tuple[Cut, ...]
    schema: pa.Schema
    rows: int
    id_hashes: HashArray | None


@dataclass(frozen=True)
class BadRow:
    """A row that was set aside.

    Attributes:
        row: its physical number in the file.
        line: the number of its first line, from 1; None for Parquet.
        id: its id where it can be told.
        error: `invalid-utf8`, `malformed-json`, `not-an-object`, `wrong-type`, `field-count`, `malformed-csv`,
            `unclosed-quote`, `malformed-triple`, `malformed-tags`, `malformed-span`, `missing-id` or `too-long`.
        message: the reason in words.
        raw: its first 500 characters; bytes that are not UTF-8 are replaced.
    """

    row: int
    line: int | None
    id: str | None
    error: str
    message: str
    raw: str


@dataclass(frozen=True)
class ReadResult:
    """The rows of a cut: `table` has the good ones in file order, `bad` the others; together as many as `cut.rows`."""

    table: pa.Table
    bad: list[BadRow]
