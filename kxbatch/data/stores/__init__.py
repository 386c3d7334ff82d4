"""Where the files of an output live: one small set of operations, on a disk and on an object store."""

from __future__ import annotations

from kxbatch.data.stores.base import Fence, Listing, Published, Store
from kxbatch.data.stores.disk import Disk

__all__ = ["Fence", "Listing", "Published", "Store", "store_of"]

_DISK = Disk()


def store_of(path: str) -> Store:
    """The store that an absolute local path or an `s3://` address lives on."""
    if path.startswith("s3://"):
        from kxbatch.data.stores.s3 import S3

        return S3()
    return _DISK
