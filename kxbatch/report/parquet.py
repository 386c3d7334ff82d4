"""Opens the Parquet files of an output, with words for those that are not what a run writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from kxbatch.data.parts import open_part
from kxbatch.data.row_groups import read_row_groups
from kxbatch.data.storage import File
from kxbatch.errors import DataError


@contextmanager
def open_parquet(file: File, columns: Sequence[str]) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and make sure that it has these columns.

    Raises:
        DataError: the file is not readable as Parquet, or lacks a column.
    """
    with open_part(file) as part:
        missing = [column for column in columns if column not in part.schema_arrow.names]
        if missing:
            raise DataError(f"{file}: no column {', '.join(missing)}; it has {', '.join(part.schema_arrow.names)}")
        yield part


def read_parquet(file: File, columns: Sequence[str]) -> pa.Table:
    """These columns of a whole Parquet file.

    Raises:
        DataError: as `open_parquet`.
    """
    with open_parquet(file, columns) as part:
        return read_row_groups(part, columns)
