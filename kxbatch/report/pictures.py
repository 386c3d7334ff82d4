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

LARGEST = 128  # pixels of a side; a picture is shown smaller than that
MOST_PIXELS = 1 << 24  # of a file that is decoded at all


def picture(value: Any, shape: Sequence[int] | None = None, levels: int | None = None) -> str | None:
    """A PNG of an image as `data:image/png;base64,...`; None for what is not one.

    Args:
        value: bytes of a PNG file, or a list of height x width x channels numbers.
        shape: height, width and channels of a list.
        levels: a list's values are 0 to `levels` - 1; absent: 0 to 1. White is that end, or the largest value if that is above.
    """
    try:
        image = _opened(value) if isinstance(value, bytes) else _drawn(value, shape or (), levels)
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(image)).save(buffer, format="PNG")  # from the pixels alone: no metadata comes along
    except Exception:  # a decoder meets broken bytes with errors of many types
        return None
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")


def _opened(data: bytes) -> Image.Image:
    """The image of a PNG file, eight bits a channel."""
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        if image.width * image.height > MOST_PIXELS:
            raise ValueError("too large to decode")
        image.load()
        if image.mode.startswith("I"):  # 16 bits; Pillow's own conversion would cut at 255
            return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).astype(np.uint8))
        transparent = image.has_transparency_data
        return image.convert("RGBA" if transparent else "L" if image.mode in ("1", "L") else "RGB")


def _drawn(value: Any, shape: Sequence[int], levels: int | None) -> Image.Image:
    pixels: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    height, width, channels = (*shape, 1)[:3]
    if not np.isfinite(pixels).all() or not 0 < pixels.size <= MOST_PIXELS:
        raise ValueError("no picture")
    low, high = min(0.0, float(pixels.min())), max(levels - 1.0 if levels else 1.0, float(pixels.max()))
    bytes_HWC = np.rint((pixels - low) * (255.0 / (high - low))).astype(np.uint8).reshape(height, width, channels)
    return Image.fromarray(bytes_HWC[..., 0] if channels == 1 else bytes_HWC)
