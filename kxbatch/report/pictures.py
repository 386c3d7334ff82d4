"""Pictures of rows: what a part holds of an image, as an address that holds the picture itself.

Bytes of an output are never passed on to a browser. They are decoded here, made small and written anew, without their
metadata; what is no picture has none, and the page does without it.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kxbatch.data.images import MOST_PIXELS, Pixels, decode

LARGEST = 128  # pixels of a side; a picture is shown smaller than that


def picture(value: Any, shape: Sequence[int] | None = None, levels: int | None = None) -> str | None:
    """A PNG of an image as `data:image/png;base64,...`; None for what is not one.

    Args:
        value: bytes of an image file, or a list of height x width x channels numbers.
        shape: height, width and channels of a list.
        levels: a list's values are 0 to `levels` - 1; absent: 0 to 1. White is that end, or the largest value if that is above.
    """
    try:
        pixels_HWC = decode(value) if isinstance(value, bytes) else _drawn(value, shape or (), levels)
        return None if pixels_HWC is None else _address(pixels_HWC)
    except Exception:  # lists that are none, of other lengths; bytes on which a decoder breaks in its own way
        return None


def _drawn(value: Any, shape: Sequence[int], levels: int | None) -> Pixels:
    numbers: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    if not np.isfinite(numbers).all() or not 0 < numbers.size <= MOST_PIXELS:
        raise ValueError("no picture")
    low, high = min(0.0, float(numbers.min())), max(levels - 1.0 if levels else 1.0, float(numbers.max()))
    return np.rint((numbers - low) * (255.0 / (high - low))).astype(np.uint8).reshape((*shape, 1)[:3])


def _address(pixels_HWC: Pixels) -> str:
    image = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")
