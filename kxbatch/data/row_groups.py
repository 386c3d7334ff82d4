"""Reads row groups of a Parquet file, those too that Arrow cannot read at once.

A dictionary in a list (`list<struct<type: dictionary>>`) has values of its own in each row group, and Arrow joins no such
chunks: it says "Nested data conversions not implemented for chunked array outputs". Read one by one, and then joined, they do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq


def read_row_groups(
    file: pq.ParquetFile,
    columns: Sequence[str] | None = None,
    groups: Sequence[int] | None = None,
    *,
    use_threads: bool = True,
) -> pa.Table:
    """Columns of some row groups.

    Args:
        file: opened.
        columns: names; None for all.
        groups: numbers; None for all.
        use_threads: as in Arrow.
    """
    names = None if columns is None else list(columns)
    numbers = list(range(file.num_row_groups)) if groups is None else list(groups)
    if len(numbers) < 2 or not _has_inner_dictionary(file, names):
        return file.read_row_groups(numbers, columns=names, use_threads=use_threads)
    return pa.concat_tables([file.read_row_group(one, columns=names, use_threads=use_threads) for one in numbers])


def row_batches(file: pq.ParquetFile, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """All rows, some at a time.

    Args:
        file: opened.
        size: rows of a batch at most.
        columns: names; None for all.
    """
    names = None if columns is None else list(columns)
    every = list(range(file.num_row_groups))
    for groups in [[one] for one in every] if _has_inner_dictionary(file, names) else [every]:
        yield from file.iter_batches(batch_size=size, row_groups=groups, columns=names)


def _has_inner_dictionary(file: pq.ParquetFile, columns: Sequence[str] | None) -> bool:
    fields = [field for field in file.schema_arrow if columns is None or field.name in columns]
    return any(_holds_dictionary(field.type) for field in fields if not pa.types.is_dictionary(field.type))


def _holds_dictionary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return True
    inner = range(kind.num_fields) if pa.types.is_nested(kind) else ()
    return any(_holds_dictionary(kind.field(at).type) for at in inner)
