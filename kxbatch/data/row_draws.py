"""Numbers that belong to a row for ever: its key, made of its id, and everything that is drawn at random for it.

A draw is a hash of the key, the number of the draw and a place, so it does not depend on the rows beside it, on the batch, or on
who computes it. R rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Keys = npt.NDArray[np.uint64]
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STREAMS = np.uint64(8)  # fewer than so many
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


def row_keys(ids: Sequence[str | int]) -> Keys:
    """A number for each id, uint64 [R]: the first 64 bits of its BLAKE2b digest."""
    digests = b"".join(hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def held_out(keys: Keys, share: float) -> npt.NDArray[np.bool_]:
    """Which rows are for validation, bool [R]: chosen by their keys, so that a row never changes sides.

    A larger share takes more rows, and leaves none of those of a smaller one.
    """
    return (keys >> np.uint64(11)).astype(np.float64) * 2.0**-53 < share


def seeds(keys: Keys, draw: int, stream: int) -> Keys:
    """A starting point for each row, draw and stream, uint64 [R].

    Args:
        keys: uint64 [R].
        draw: any number; another one gives other draws.
        stream: 0 to 7, what is drawn.
    """
    number = np.array([draw % 2**64], np.uint64)
    return mix(mix(keys) ^ mix(number * _STREAMS + np.uint64(stream)))


def uniform(starts: Keys, places: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), one for each seed and place, with 53 random bits."""
    return (_hashed(starts, places) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def standard_normal(starts: Keys, first: int, count: int, width: int) -> npt.NDArray[np.float32]:
    """Standard normal numbers by the formula of Box and Muller (1958), with 32 random bits each.

    Args:
        starts: uint64 [R], from `seeds`.
        first: number of the first vector; vector `i` of a row is the same whatever is asked for beside it.
        count: vectors of each row.
        width: their length.

    Returns:
        float32 [R, count, width]; the largest is 6.7.
    """
    pairs = -(-width // 2)
    places = np.arange(first * pairs, (first + count) * pairs, dtype=np.int64)
    bits = _hashed(starts[:, None], places[None, :])
    # 2^-33 is added so that no logarithm is of 0; float32 rounds the largest to 1, whose logarithm is 0
    radius = ((bits >> _HALF).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    angle = (bits & _LOW).astype(np.float32) * np.float32(2.0 * np.pi * 2.0**-32)
    radius = np.sqrt(np.float32(-2.0) * np.log(radius))
    out = np.empty((len(starts), count, pairs, 2), np.float32)
    out[..., 0] = (radius * np.cos(angle)).reshape(len(starts), count, pairs)
    out[..., 1] = (radius * np.sin(angle)).reshape(len(starts), count, pairs)
    return out.reshape(len(starts), count, 2 * pairs)[..., :width]


def mix(x: Keys) -> Keys:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves half the bits of the output."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hashed(starts: Keys, places: npt.NDArray[np.signedinteger]) -> Keys:
    return mix(starts + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
