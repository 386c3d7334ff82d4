"""Rows with images and classes, which tests of several stages share."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """Of [height, width] or [height, width, 3]."""
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def images(first: int, count: int, height: int = 4, width: int = 6, channels: int = 1) -> pa.Table:
    """Rows by number: id, and an image of noise."""
    rng = np.random.default_rng(first)
    size = (height, width) if channels == 1 else (height, width, channels)
    rows = [png(rng.integers(0, 256, size, np.uint8)) for _ in range(count)]
    return pa.table({"id": [f"i{n:04d}" for n in range(first, first + count)], "image": pa.array(rows, pa.binary())})


def labelled(rows: pa.Table, *names: Any) -> pa.Table:
    """With a column `kind` that goes through the names."""
    return rows.append_column("kind", pa.array([names[n % len(names)] for n in range(len(rows))]))
