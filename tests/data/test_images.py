"""Images from bytes: every mode, damage, huge ones, and whole levels without loss."""

from __future__ import annotations

import io
import random
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from kxbatch.data.images import MOST_PIXELS, decode, quantise

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (4, 5, 3)).astype(np.uint8)
GREY = COLOUR[:, :, 0]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pixels(image: Image.Image, kind: str = "PNG", **options: Any) -> npt.NDArray[np.uint8]:
    found = decode(encoded(image, kind, **options))
    assert found is not None
    assert found.dtype == np.uint8
    return found


def test_grey() -> None:
    assert (pixels(Image.fromarray(GREY)) == GREY[:, :, None]).all()
    clear = Image.merge("LA", [Image.fromarray(GREY), Image.fromarray(255 - GREY)])
    assert (pixels(clear) == GREY[:, :, None]).all(), "transparency is dropped, not mixed in"
    bits = Image.fromarray(GREY > 127)
    assert bits.mode == "1"
    assert (pixels(bits) == 255 * (GREY > 127)[:, :, None]).all()


def test_colour() -> None:
    assert (pixels(Image.fromarray(COLOUR)) == COLOUR).all()
    clear = Image.merge("RGBA", [*Image.fromarray(COLOUR).split(), Image.fromarray(GREY)])
    assert (pixels(clear) == COLOUR).all()
    palette = Image.fromarray(COLOUR // 128 * 255).quantize(8)
    assert palette.mode == "P"
    assert (pixels(palette) == COLOUR // 128 * 255).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_of_sixteen_bits_the_upper_eight_are_taken(kind: str) -> None:
    deep = RNG.integers(0, 65536, (4, 5)).astype(np.uint16)
    assert (pixels(Image.fromarray(deep), kind) == (deep >> 8)[:, :, None]).all()
    same = Image.fromarray(GREY.astype(np.uint16) * 257)  # how 8 bits become 16
    assert (pixels(same, kind) == GREY[:, :, None]).all()


@pytest.mark.parametrize(
    ("kind", "options"), [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("PPM", {}), ("GIF", {})]
)
def test_formats_without_loss(kind: str, options: dict[str, Any]) -> None:
    image = Image.fromarray(COLOUR)
    image = image.quantize(32) if kind == "GIF" else image
    assert (pixels(image, kind, **options) == COLOUR).all()


def test_jpeg() -> None:
    smooth = np.broadcast_to(np.linspace(0, 255, 16).astype(np.uint8)[:, None], (16, 16)).copy()
    assert np.abs(pixels(Image.fromarray(smooth), "JPEG", quality=95)[:, :, 0].astype(int) - smooth).max() < 8


def test_what_has_no_range_or_is_handed_to_other_programs_is_no_image() -> None:
    assert decode(encoded(Image.fromarray(RNG.random((4, 5)).astype(np.float32)), "TIFF")) is None
    assert decode(encoded(Image.fromarray(RNG.integers(0, 2**30, (4, 5)).astype(np.int32)), "TIFF")) is None
    assert decode(encoded(Image.fromarray(COLOUR), "EPS")) is None  # Pillow would run Ghostscript


def claiming(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is so large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + chunk(b"IDAT", zlib.compress(b"\0" * min(width + 1, 10_000)))
        + chunk(b"IEND", b"")
    )


def test_broken_bytes_and_bombs_are_no_images() -> None:
    whole = encoded(Image.fromarray(RNG.integers(0, 256, (64, 64, 3)).astype(np.uint8)))
    for content in (b"", b"x", b"not an image at all", whole[:8], whole[:40], whole[: len(whole) // 2], whole[8:]):
        assert decode(content) is None
    assert decode(claiming(3, 1)) is not None
    assert decode(claiming(1, MOST_PIXELS + 1)) is None
    assert decode(claiming(20_000, 20_000)) is None  # beyond what Pillow warns of, and what it refuses
    assert decode(claiming(2**31 - 1, 2**31 - 1)) is None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_damage_never_escapes(kind: str) -> None:
    draw, image = random.Random(kind), Image.fromarray(RNG.integers(0, 256, (9, 11, 3)).astype(np.uint8))
    ImageDraw.Draw(image).line((0, 0, 10, 8), fill=(255, 0, 0))
    whole = encoded(image, kind)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 6)):
            damaged[draw.randrange(min(len(damaged), 200))] = draw.randrange(256)
        found = decode(bytes(damaged[: draw.choice([len(damaged), draw.randrange(len(damaged))])]))
        assert found is None or (found.ndim == 3 and found.size <= 3 * MOST_PIXELS)


@pytest.mark.parametrize("half", [np.rint, lambda x: np.floor(x + 0.5), lambda x: np.ceil(x - 0.5)])
def test_levels_come_back_exactly(half: Any) -> None:
    for levels in range(2, 257):
        level = np.arange(levels)
        image = half(level * 255 / (levels - 1)).astype(np.uint8)
        np.testing.assert_array_equal(quantise(image, levels), level, err_msg=str(levels))


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 256))
def test_levels_rise_and_take_all_values_as_evenly_as_can_be(levels: int) -> None:
    found = quantise(np.arange(256, dtype=np.uint8), levels)
    assert (found[0], found[-1]) == (0, levels - 1)
    assert set(np.diff(found.astype(int))) <= {0, 1}
    counts = np.bincount(found)
    assert counts.max() - counts.min() <= 2
    if 256 % levels == 0:
        assert (counts == 256 // levels).all()
