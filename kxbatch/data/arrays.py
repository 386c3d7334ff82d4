"""Named numpy arrays in one file: safetensors, which holds numbers and no code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kxbatch.data.storage import Folder, Published
from kxbatch.errors import DataError

Arrays = dict[str, npt.NDArray[Any]]


def publish_arrays(folder: Folder, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> Published:
    """Write arrays as one safetensors file; the same arrays give the same bytes."""
    ordered = {key: np.asarray(arrays[key], order="C") for key in sorted(arrays)}
    return folder.publish_bytes(name, save(ordered))


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
