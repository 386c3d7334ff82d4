"""Opens the Parquet files of an output, with words for those that are not what a run writes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from kxbatch.errors import DataError


def open_parquet(path: Path, columns: Sequence[str]) -> pq.ParquetFile:
    """Open a Parquet file and make sure that it has these columns.

    Raises:
        DataError: the file is not readable as Parquet, or lacks a column.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not readable as Parquet ({error}); `kxbatch verify` tells what is damaged") from error
    missing = [column for column in columns if column not in file.schema_arrow.names]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def read_parquet(path: Path, columns: Sequence[str]) -> pa.Table:
    """These columns of a whole Parquet file.

    Raises:
        DataError: as `open_parquet`.
    """
    return open_parquet(path, columns).read(columns=list(columns))
