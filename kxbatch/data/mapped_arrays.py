"""Arrays of a safetensors file without reading it: views of a memory map, paged in when they are looked at."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from kxbatch.data.arrays import DTYPES, Arrays
from kxbatch.errors import DataError

_LENGTH = 8  # bytes of the length of the header, little-endian


def map_arrays(path: Path, mend: str = "`kxbatch run` makes it again") -> Arrays:
    """The arrays of a file, read-only. The file must not change while they are used: a file cut short kills the process.

    Args:
        path: a safetensors file on this machine.
        mend: what a person should do about a damaged one.

    Raises:
        DataError: absent or damaged; says which file and what to do.
    """
    try:
        size = path.stat().st_size
        whole = np.asarray(np.memmap(path, np.uint8, "r")) if size else np.empty(0, np.uint8)
        begin = _LENGTH + int.from_bytes(whole[:_LENGTH].tobytes(), "little")
        if size < _LENGTH or begin > size:
            raise ValueError(f"its header ends at byte {begin}, the file at {size}")
        header = json.loads(whole[_LENGTH:begin].tobytes())
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if max((entry["data_offsets"][1] for entry in entries.values()), default=0) != size - begin:
            raise ValueError(f"{size - begin} bytes of arrays, its header speaks of others")
        return {name: _view(whole[begin:], entry) for name, entry in entries.items()}
    except FileNotFoundError:
        raise DataError(f"{path}: missing; {mend}") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise DataError(f"{path}: no valid safetensors file ({error}); {mend}") from None


def _view(content: np.ndarray[Any, Any], entry: dict[str, Any]) -> np.ndarray[Any, Any]:
    """One array, by its header."""
    first, last = entry["data_offsets"]
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<"), tuple(entry["shape"])
    if not 0 <= first <= last or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {list(shape)} in {last - first} bytes")
    view: np.ndarray[Any, Any] = content[first:last].view(dtype).reshape(shape)
    return view
