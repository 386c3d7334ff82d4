"""Images in a binary column, of the formats that Pillow reads by itself."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

IMAGE_LEVELS = 256  # of a pixel's channel, as it is decoded
MOST_PIXELS = 2**24  # of one image; a small file can claim to be a huge picture
_GREY = ("1", "L", "LA")
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # none that starts another program

Pixels = npt.NDArray[np.uint8]


def decode(content: bytes) -> Pixels | None:
    """Pixels of an image, uint8 [height, width, channels]: one channel for grey, else three; transparency is dropped.

    Returns:
        None for what is no image, is damaged, or has more than 2^24 pixels.
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            pixels = np.asarray(image.convert("L" if image.mode in _GREY else "RGB"), np.uint8)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError):
        return None
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def quantise(pixels: Pixels, levels: int) -> Pixels:
    """Whole levels 0 to `levels - 1` of 8-bit values; for an image that has only so many, evenly spread, nothing is lost."""
    return (pixels.astype(np.uint32) * levels // 256).astype(np.uint8)
