"""Named numpy arrays in one file: safetensors, which holds numbers and no code."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from kxbatch.data.storage import Folder, Published
from kxbatch.errors import DataError

Arrays = dict[str, npt.NDArray[Any]]

DTYPES: dict[str, Any] = {  # in the library's order, widest last
    "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16, "F16": np.float16, "I32": np.int32,
    "U32": np.uint32, "F32": np.float32, "F64": np.float64, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip
_NAMES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
_RANKS = {name: rank for rank, name in enumerate(DTYPES)}
_PIECE = 2**26  # bytes handed on at a time


def publish_arrays(folder: Folder, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Published:
    """Write arrays as one safetensors file, without a copy of them; the same arrays give the same bytes.

    Wide elements come first and the header is filled up to 8 bytes, so every array is aligned in the file. These are the bytes
    that the library safetensors writes, which makes them in memory first.
    """
    named = [(key, np.asarray(array)) for key, array in arrays.items()]
    ordered = sorted(named, key=lambda item: (-_RANKS[_NAMES[item[1].dtype]], item[0]))

    def write(sink: Any) -> None:
        sink.write(_header(ordered))
        for _, array in ordered:
            flat = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
            for start in range(0, len(flat), _PIECE):
                sink.write(flat[start : start + _PIECE].data)

    return folder.publish(name, write)


def read_arrays(folder: Folder, name: str) -> Arrays:
    """Read a safetensors file.

    Raises:
        DataError: absent or damaged; says which file and what to do.
    """
    try:
        return dict(load(folder.read(name)))
    except FileNotFoundError:
        raise DataError(f"{folder.file(name)}: missing; `kxbatch run` makes it again") from None
    except SafetensorError as error:
        raise DataError(
            f"{folder.file(name)}: no valid safetensors file ({error}); `kxbatch run` makes it again"
        ) from None


def _header(ordered: list[tuple[str, npt.NDArray[Any]]]) -> bytes:
    """Length and header of a file with these arrays."""
    entries, end = {}, 0
    for name, array in ordered:
        start, end = end, end + array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
