"""Pictures of rows: what a part holds of an image, as an address that holds the picture itself.

Bytes of an output are never passed on to a browser. They are decoded here, made small and written anew, without their
metadata; what is no picture has none, and the page does without it.
"""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kxbatch.data.images import MOST_PIXELS, Pixels, decode

LARGEST = 128  # pixels of a side; a picture is shown smaller than that
GAP = 1  # pixels between the pictures of a sheet


def picture(value: Any, shape: Sequence[int] | None = None, levels: int | None = None) -> str | None:
    """A PNG of an image as `data:image/png;base64,...`; None for what is not one.

    Args:
        value: bytes of an image file, or a list of height x width x channels numbers.
        shape: height, width and channels of a list.
        levels: a list's values are 0 to `levels` - 1; absent: 0 to 1. White is that end, or the largest value if that is above.
    """
    try:
        pixels_HWC = decode(value) if isinstance(value, bytes) else _drawn(value, shape or (), levels)
        return None if pixels_HWC is None else _png(_thumbnail(pixels_HWC))
    except Exception:  # lists that are none, of other lengths; bytes on which a decoder breaks in its own way
        return None


def contact_sheet(images: Sequence[bytes]) -> str | None:
    """A PNG of many images side by side, as near to a square as can be; None where none of them is one.

    Args:
        images: bytes of image files, row by row; the place of one that is damaged stays free.
    """
    thumbnails = [_thumbnail(pixels) if (pixels := decode(image)) is not None else None for image in images]
    known = [one for one in thumbnails if one is not None]
    if not known:
        return None
    width, height = max(one.width for one in known) + GAP, max(one.height for one in known) + GAP
    columns = math.ceil(math.sqrt(len(images)))
    sheet = Image.new("RGBA", (columns * width - GAP, math.ceil(len(images) / columns) * height - GAP))
    for at, one in enumerate(thumbnails):
        if one is not None:
            sheet.paste(one, (at % columns * width, at // columns * height))
    return _png(sheet)


def _drawn(value: Any, shape: Sequence[int], levels: int | None) -> Pixels:
    numbers: NDArray[np.float64] = np.asarray(value, dtype=np.float64)
    if not np.isfinite(numbers).all() or not 0 < numbers.size <= MOST_PIXELS:
        raise ValueError("no picture")
    low, high = min(0.0, float(numbers.min())), max(levels - 1.0 if levels else 1.0, float(numbers.max()))
    return np.rint((numbers - low) * (255.0 / (high - low))).astype(np.uint8).reshape((*shape, 1)[:3])


def _thumbnail(pixels_HWC: Pixels) -> Image.Image:
    image = Image.fromarray(pixels_HWC[..., 0] if pixels_HWC.shape[-1] == 1 else pixels_HWC)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.BOX)
    return image


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return "data:image/png;base64," + b64encode(buffer.getvalue()).decode("ascii")
