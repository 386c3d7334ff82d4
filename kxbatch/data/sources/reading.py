"""Scanning and reading of source files, whatever their format."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from kxbatch.data.sources.annotated import Cluener, Cmeee
from kxbatch.data.sources.conll import Conll
from kxbatch.data.sources.delimited import Delimited
from kxbatch.data.sources.ids import id_kind
from kxbatch.data.sources.jsonl import JsonLines
from kxbatch.data.sources.lines import LineFormat, infer_schema, read_lines, require_columns, scan_lines
from kxbatch.data.sources.model import Cut, ReadOptions, ReadResult, SourceFile, SourceScan
from kxbatch.data.sources.ntriples import NTriples
from kxbatch.data.sources.parquet import hash_parquet_ids, parquet_schema, read_parquet, scan_parquet
from kxbatch.data.sources.streams import check_unchanged
from kxbatch.data.sources.text import SCHEMA, TextLines, read_whole, scan_whole
from kxbatch.data.sources.values import check_kinds
from kxbatch.errors import ConfigError, DataError

_LINE_FORMATS: dict[str, type[LineFormat]] = {
    "jsonl": JsonLines,
    "csv": Delimited,
    "tsv": Delimited,
    "text": TextLines,
    "nt": NTriples,
    "conll": Conll,
    "cluener": Cluener,
    "cmeee": Cmeee,
}


def scan(source: SourceFile, *, target_bytes: int, id_column: str | None, options: ReadOptions) -> SourceScan:
    """Cuts a file into future shards and finds its columns.

    Parquet costs its footer, and the id column if there is one; other formats one streaming pass.

    Args:
        source: the file.
        target_bytes: uncompressed bytes of a cut at most, unless a single row (or row group) has more.
        id_column: where ids come from; None derives them.
        options: how to read line formats.

    Raises:
        ConfigError: no such id column, ids that are neither strings nor integers, or plain text with an id column.
        DataError: a file that is damaged, changed, not what its name says, or a decompression bomb.
        RetryableError: the storage does not answer.
    """
    check_unchanged(source)
    schema = _schema(source, options)
    id_field = _id_field(source, schema, id_column) if id_column is not None else None
    hashes = np.empty(0, np.uint64)
    if source.format == "parquet":
        cuts = scan_parquet(source, target_bytes)
        if id_field is not None and cuts:
            hashes = hash_parquet_ids(source, id_field.name)
    elif _is_one_row(source, options):
        cuts = scan_whole(source, options)
    else:
        cuts, hashes = scan_lines(_open(source, options), target_bytes, id_field)
    rows = sum(cut.rows for cut in cuts)
    return SourceScan(source, tuple(cuts), schema, rows, None if id_column is None else hashes)


def read(
    source: SourceFile,
    cut: Cut,
    *,
    columns: Sequence[str],
    schema: pa.Schema,
    id_column: str | None,
    options: ReadOptions,
) -> ReadResult:
    """Reads a cut as an Arrow table, with bad rows set aside.

    The table has `id` first (string or int64, never null), then `columns` in their order with the types that `schema` gives
    them; its columns may have several chunks. `table.num_rows + len(bad) == cut.rows` always.

    Args:
        source: the file.
        cut: one of the cuts of its scan.
        columns: what to read beside the id.
        schema: frozen types of the columns; the id column's type is the file's own where it is not in there.
        id_column: where ids come from; None derives `name#row` (`name` for a file that is one row).
        options: those of the scan.

    Raises:
        ConfigError: a column is missing, ids that are neither strings nor integers, a column called `id` that is not
            the id column, or a type that the format cannot give.
        DataError: a file that is damaged or changed since it was listed.
        RetryableError: the storage does not answer.
    """
    check_unchanged(source)
    if "id" in columns and id_column != "id":
        raise ConfigError("input: column 'id' would stand beside the ids that kxbatch makes; set input.id or rename it")
    wanted = [name for name in dict.fromkeys(columns) if name != "id"]
    require_columns(source, schema.names, wanted)
    fields = [schema.field(name).with_nullable(True) for name in wanted]
    id_field = None
    if id_column is not None:
        id_field = _id_field(source, schema if id_column in schema.names else _schema(source, options), id_column)
    result = _read(source, cut, fields, id_field, options)
    if result.table.num_rows + len(result.bad) != cut.rows:
        raise DataError(
            f"{source.url}: {cut.rows} rows were planned from row {cut.first_row} on, "
            f"{result.table.num_rows + len(result.bad)} are there; the file or the options changed: plan again"
        )
    return result


def _read(
    source: SourceFile, cut: Cut, fields: list[pa.Field], id_field: pa.Field | None, options: ReadOptions
) -> ReadResult:
    plain = [field.remove_metadata() for field in fields]  # marks are for the reader of JSON alone
    if source.format == "parquet":
        return read_parquet(source, cut, plain, id_field)
    check_kinds(source, fields)
    if source.format == "text":
        require_columns(source, SCHEMA.names, [field.name for field in fields])
    if _is_one_row(source, options):
        return read_whole(source, cut, plain, options)
    return read_lines(_open(source, options), cut, fields, id_field)


def column_names(source: SourceFile, options: ReadOptions) -> list[str]:
    """The columns of a file, as the first rows tell where there is no schema.

    Raises:
        DataError: the file cannot be read.
    """
    return list(_schema(source, options).names)


def _open(source: SourceFile, options: ReadOptions) -> LineFormat:
    return _LINE_FORMATS[source.format](source, options)


def _is_one_row(source: SourceFile, options: ReadOptions) -> bool:
    return source.format == "text" and options.text_per == "file"


def _schema(source: SourceFile, options: ReadOptions) -> pa.Schema:
    if source.format == "parquet":
        return parquet_schema(source)
    return SCHEMA if source.format == "text" else infer_schema(_open(source, options))


def _id_field(source: SourceFile, schema: pa.Schema, column: str) -> pa.Field:
    if source.format == "text":
        raise ConfigError(f"{source.url}: plain text has no column '{column}' for ids; leave input.id out")
    if not schema.names:  # no row of the sample was good: every row is set aside, whatever its id
        return pa.field(column, pa.string())
    require_columns(source, schema.names, [column])
    return pa.field(column, id_kind(source, schema.field(column)))
