"""Parquet: cut by row groups from the footer alone, read by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kxbatch.data.filesystems import is_local, resolve, storage_error
from kxbatch.data.row_groups import read_row_groups
from kxbatch.data.sources.ids import derived_ids, hash_ids, missing_ids
from kxbatch.data.sources.lines import require_columns
from kxbatch.data.sources.model import (
    RAW_CHARACTERS,
    BadRow,
    BoolArray,
    Cut,
    HashArray,
    ReadResult,
    SourceFile,
)
from kxbatch.data.sources.values import is_text
from kxbatch.data.spans import KEYS, SPANS, is_spans, narrowed
from kxbatch.errors import DataError

_ID_BATCH_ROWS = 65_536
# Of the file read last: its shards come one after the other, and a footer tells of all row groups where a read wants a few.
_footers: dict[SourceFile, pq.FileMetaData] = {}


def parquet_schema(source: SourceFile) -> pa.Schema:
    """Columns of a file as they are read: dictionaries decoded, all text as string, spans alike, everything else as it is.

    Raises:
        DataError: not a readable Parquet file.
    """
    with _open(source) as file:
        return _schema(file)


def scan_parquet(source: SourceFile, target_bytes: int) -> list[Cut]:
    """Cuts a file by its footer: neighbouring row groups are joined up to the target; one beyond it stands alone.

    Raises:
        DataError: not a readable Parquet file.
    """
    cuts: list[Cut] = []
    start = first_row = rows = size = 0
    with _open(source) as file:
        for group in range(file.num_row_groups):
            facts = file.metadata.row_group(group)
            if rows and size + facts.total_byte_size > target_bytes:
                cuts.append(Cut(start, group, first_row, rows, size))
                start, first_row, rows, size = group, first_row + rows, 0, 0
            rows, size = rows + facts.num_rows, size + facts.total_byte_size
        if rows:
            cuts.append(Cut(start, file.num_row_groups, first_row, rows, size))
    return cuts


def hash_parquet_ids(source: SourceFile, column: str) -> HashArray:
    """Hashes of the usable ids; reads that column alone.

    Raises:
        DataError: the column cannot be read.
    """
    hashes = [np.empty(0, np.uint64)]
    with _open(source) as file:
        for batch in file.iter_batches(batch_size=_ID_BATCH_ROWS, columns=[column], use_threads=False):
            ids = batch.column(column)
            if pa.types.is_dictionary(ids.type):
                ids = ids.dictionary_decode()
            ids = ids.cast(pa.string())
            hashes.append(hash_ids(ids.filter(pa.array(~missing_ids(ids)))))
    return np.concatenate(hashes)


def read_parquet(source: SourceFile, cut: Cut, fields: Sequence[pa.Field], id_field: pa.Field | None) -> ReadResult:
    """Reads row groups; rows without an id, or with text that is not UTF-8, are set aside.

    Args:
        source: the file.
        cut: one of its cuts.
        fields: columns and types to give beside `id`.
        id_field: the id column and its type; None derives ids.

    Raises:
        ConfigError: a column is missing.
        DataError: damaged, or a column is of a type that does not become the wanted one.
    """
    wanted = list(dict.fromkeys([*([id_field.name] if id_field else []), *(field.name for field in fields)]))
    with _open(source) as file:
        require_columns(source, file.schema_arrow.names, wanted)
        groups = list(range(cut.start, cut.stop))
        raw = read_row_groups(file, wanted, groups, use_threads=False).select(wanted) if wanted else None
    numbers = np.arange(cut.first_row, cut.first_row + (cut.rows if raw is None else raw.num_rows))
    columns: list[pa.ChunkedArray] = []
    misfits: dict[int, tuple[str, str]] = {}
    for field in fields:
        assert raw is not None
        column, beyond = _narrowed(raw[field.name], field)
        columns.append(_cast(source, column, field))
        misfits |= beyond
    ids = _cast(source, raw[id_field.name], id_field) if raw is not None and id_field else derived_ids(source, numbers)
    schema = pa.schema([pa.field("id", ids.type, nullable=False), *fields])
    table = pa.table([ids, *columns], schema=schema)
    faults = misfits | _faults(table, id_field)
    if not faults:
        return ReadResult(table, [])
    good = np.ones(table.num_rows, bool)
    good[list(faults)] = False
    bad = [_bad_row(table, index, int(numbers[index]), *faults[index]) for index in sorted(faults)]
    return ReadResult(table.filter(pa.array(good)), bad)


@contextmanager
def _open(source: SourceFile) -> Iterator[pq.ParquetFile]:
    if source.size == 0:
        raise DataError(f"{source.url}: the file is empty (0 bytes), so it is no Parquet; write it again or remove it")
    fs, path = resolve(source.url, None)
    try:
        known = _footers.get(source)
        options = {"metadata": known, "pre_buffer": not is_local(fs)}
        with fs.open_input_file(path) as handle, pq.ParquetFile(handle, **options) as file:
            if known is None:
                _keep_footer(source, file.metadata)
            yield file
    except MemoryError:  # Arrow's own is one of its exceptions too; the file is not to blame
        raise
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # the latter from names of columns
        found = storage_error(error, source.url)
        if not isinstance(found, DataError) or isinstance(error, FileNotFoundError):
            raise found from error
        raise DataError(
            f"{source.url}: cannot be read as Parquet ({error}); it is truncated, corrupt or something else: "
            "write it again or leave it out"
        ) from error


def _keep_footer(source: SourceFile, footer: pq.FileMetaData) -> None:
    """One at a time, because those of wide files are large; none of a file whose changes nobody would notice."""
    _footers.clear()
    if source.modified_ns:
        _footers[source] = footer


def _schema(file: pq.ParquetFile) -> pa.Schema:
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in file.schema_arrow])


def _plain(kind: pa.DataType) -> pa.DataType:
    if is_spans(kind) and kind.value_type.num_fields == len(KEYS):
        return SPANS  # so that files of different programs go together
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.string() if is_text(kind) else kind


def _narrowed(column: pa.ChunkedArray, field: pa.Field) -> tuple[pa.ChunkedArray, dict[int, tuple[str, str]]]:
    """A column, without the spans whose offsets are too large for its type; and these rows."""
    if field.type != SPANS or column.type == SPANS or not is_spans(column.type):
        return column, {}
    column, faults = narrowed(column)
    words = f"column '{field.name}' holds a span with offset {{}}, expected {SPANS}"
    return column, {row: ("wrong-type", words.format(offset)) for row, offset in faults.items()}


def _cast(source: SourceFile, column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    try:
        return column if column.type == field.type else column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{source.url}: column '{field.name}' is {column.type} and does not become {field.type} ({error}); "
            "convert the file, or leave the column or the file out"
        ) from error


def _faults(table: pa.Table, id_field: pa.Field | None) -> dict[int, tuple[str, str]]:
    faults: dict[int, tuple[str, str]] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if pa.types.is_string(column.type):
            for index in np.flatnonzero(_invalid_utf8(column)).tolist():
                faults.setdefault(index, ("invalid-utf8", f"column '{name}' holds bytes that are not UTF-8"))
    if id_field is not None:
        for index in np.flatnonzero(missing_ids(table["id"])).tolist():
            faults.setdefault(index, ("missing-id", f"no value in the id column '{id_field.name}'"))
    return faults


def _invalid_utf8(column: pa.ChunkedArray) -> BoolArray:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([_lossy(value) != value for value in column.cast(pa.binary()).to_pylist()], bool)
    return np.zeros(len(column), bool)


def _lossy(value: bytes | None) -> bytes | None:
    return value if value is None else value.decode("utf-8", "ignore").encode()


def _bad_row(table: pa.Table, index: int, number: int, error: str, message: str) -> BadRow:
    row = table.slice(index, 1)
    shown: dict[str, Any] = {}
    for name, column in zip(row.column_names, row.columns, strict=True):
        value = (pc.cast(column, pa.binary()) if pa.types.is_string(column.type) else column)[0].as_py()
        shown[name] = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    raw = orjson.dumps(shown, default=str).decode()[:RAW_CHARACTERS]
    return BadRow(number, None, None if shown["id"] is None else str(shown["id"]), error, message, raw)
