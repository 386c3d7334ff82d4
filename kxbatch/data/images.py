"""Images in a binary column: PNG, and other formats of pixels that Pillow decodes itself.

Pillow knows more formats, some of which it hands to other programs; bytes of a corpus must not reach those.
"""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

IMAGE_LEVELS = 256  # of a pixel's channel, as it is decoded
MOST_PIXELS = 2**24  # of one image; a small file can claim to be a huge picture
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_GREY = ("1", "L", "LA")
_SIXTEEN = "I;16"  # modes of 16 bits, in either order of bytes
_NO_RANGE = ("I", "F")

Pixels = npt.NDArray[np.uint8]


def shape_of(content: bytes) -> tuple[int, int, int] | None:
    """Height, width and channels that an image says it has, without decoding its pixels; None for what `decode` refuses unread."""
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS or image.mode in _NO_RANGE:
                return None
            grey = image.mode in _GREY or image.mode.startswith(_SIXTEEN)
            return (image.height, image.width, 1 if grey else 3)
    except Exception:  # decoders of damaged files raise what they like
        return None


def decode(content: bytes) -> Pixels | None:
    """Pixels of an image, uint8 [height, width, channels]: one channel for grey, else three; transparency is dropped.

    Of 16 bits a channel, the upper 8 are taken. Of several frames, the first.

    Returns:
        None for what is no image, is damaged, has more than 2^24 pixels, or pixels of no known range (32 bits, real numbers).
    """
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                return None
            if image.mode in _NO_RANGE:
                return None
            pixels = _high_bytes(image) if image.mode.startswith(_SIXTEEN) else _converted(image)
    except Exception:
        return None
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


def _converted(image: Image.Image) -> Pixels:
    return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"), np.uint8)


def _high_bytes(image: Image.Image) -> Pixels:
    high: Pixels = (np.asarray(image) >> 8).astype(np.uint8)
    return high


def fits_png(channels: int | None, levels: int | None) -> bool:
    """Whether `encode` can write rows of so many channels and levels.

    Args:
        channels: None: rows are no images.
        levels: None: values are real numbers, of no known range.
    """
    return channels in (1, 3) and levels is not None and levels <= IMAGE_LEVELS


def encode(pixels: Pixels) -> bytes:
    """A PNG of uint8 [height, width, channels]: grey of one channel, colour of three."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def quantise(pixels: Pixels, levels: int) -> Pixels:
    """Whole levels 0 to `levels - 1` of 8-bit values, as evenly as can be.

    Nothing is lost of an image that has only so many, `255 level / (levels - 1)` rounded either way where it is a half.

    Args:
        pixels: uint8, any shape.
        levels: 2 to 256.
    """
    level, step = np.arange(levels), levels - 1
    lowest, highest = (
        -((step - 510 * level) // (2 * step)),
        (510 * level + step) // (2 * step),
    )  # a half down, a half up
    even = -(-256 * level // levels)  # where each level would begin
    begins = np.clip(even[1:], highest[:-1] + 1, lowest[1:])
    found: Pixels = np.searchsorted(begins, np.arange(256), side="right").astype(np.uint8)[pixels]
    return found
