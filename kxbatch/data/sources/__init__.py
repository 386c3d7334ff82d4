"""From the patterns a user wrote to Arrow tables: discover files, scan them into cuts, read cuts, set bad rows aside."""

from kxbatch.data.sources.discovery import discover
from kxbatch.data.sources.ids import hash_ids
from kxbatch.data.sources.model import (
    BadRow,
    Compression,
    Cut,
    Format,
    ReadOptions,
    ReadResult,
    SourceFile,
    SourceScan,
)
from kxbatch.data.sources.reading import column_names, read, scan

__all__ = [
    "BadRow",
    "Compression",
    "Cut",
    "Format",
    "ReadOptions",
    "ReadResult",
    "SourceFile",
    "SourceScan",
    "column_names",
    "discover",
    "hash_ids",
    "read",
    "scan",
]
