"""Inputs on an object store: listed, and found unchanged or changed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest

from kxbatch.data.filesystems import resolve
from kxbatch.data.sources.discovery import discover
from kxbatch.data.sources.streams import check_unchanged
from kxbatch.errors import DataError


def test_a_listed_file_is_the_one_that_is_read(s3: Any, bucket: str) -> None:
    """The server lists times in milliseconds and answers for one object in seconds."""
    s3.put_object(Bucket=bucket, Key="data/a.jsonl", Body=b"{}\n")
    filesystem, folder = resolve(f"s3://{bucket}/data", None)
    (listed,) = filesystem.get_file_info(pafs.FileSelector(folder))
    assert listed.mtime_ns != filesystem.get_file_info(listed.path).mtime_ns
    for pattern in ("data/*.jsonl", "data", "data/a.jsonl"):
        (source,) = discover([f"s3://{bucket}/{pattern}"], base=Path.cwd())
        check_unchanged(source)
    time.sleep(1.1)
    s3.put_object(Bucket=bucket, Key="data/a.jsonl", Body=b"[]\n")
    with pytest.raises(DataError, match="changed since it was listed"):
        check_unchanged(source)
