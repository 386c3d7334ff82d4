"""What a log-density is turned into: a place among other rows, a score of oddity, a code length."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays

Floats = npt.NDArray[np.float64]
_EMPTY = len(zlib.compress(b"", 9))  # what an empty text costs


def percentiles(found: Floats, calibration: Floats) -> npt.NDArray[np.float32]:
    """Share of the calibration rows with a lower density, 0 to 100, ties counted half; NaN where there is nothing to compare.

    Args:
        found: [m], nats.
        calibration: sorted.
    """
    if not len(calibration):
        return np.full(len(found), np.nan, np.float32)
    below = np.searchsorted(calibration, found, side="left") + np.searchsorted(calibration, found, side="right")
    share = below * (50.0 / len(calibration))
    share[np.isnan(found)] = np.nan
    return share.astype(np.float32)


def _nll(found: Floats, calibration: Floats, values: npt.NDArray[Any], levels: int | None) -> Floats:
    return -found


def _typicality(found: Floats, calibration: Floats, values: npt.NDArray[Any], levels: int | None) -> Floats:
    """Distance from the mean log-density of the calibration rows: too likely is odd, too (Nalisnick et al. 2019)."""
    distance: Floats = np.abs(found - (calibration.mean() if len(calibration) else np.nan))
    return distance


def _complexity(found: Floats, calibration: Floats, values: npt.NDArray[Any], levels: int | None) -> Floats:
    """-log p less the length of the row's levels after zlib (Serra et al. 2020): simple images are likely for any model."""
    lengths = np.array([len(zlib.compress(row.tobytes(), 9)) - _EMPTY for row in packed(values, levels)], np.float64)
    return -found - lengths * (8 * float(np.log(2.0)))


def packed(values: Floats, levels: int | None) -> npt.NDArray[np.unsignedinteger]:
    """Whole levels in as few bytes as hold all of them."""
    return values.astype(np.uint8 if levels is not None and levels <= 256 else np.uint16)


SCORES: dict[str, Callable[[Floats, Floats, npt.NDArray[Any], int | None], Floats]] = {
    "nll": _nll,
    "typicality": _typicality,
    "complexity": _complexity,
}


def code_lengths(sample: Arrays, levels: int) -> dict[str, Any] | None:
    """Bits of an ideal code for the calibration rows, and of what common compressors make of the same levels.

    Args:
        sample: `log_density` [m] and `levels` [m, D] of whole levels.
        levels: how many there are; a value costs `log2 levels` bits as it is.
    """
    stored = sample["levels"]
    if not len(stored):
        return None
    content = np.ascontiguousarray(stored).tobytes()
    zstd = pa.Codec("zstd", compression_level=19).compress(content)
    return {
        "rows": len(stored),
        "bits": float(-sample["log_density"].sum() / np.log(2.0)),
        "raw_bits": float(stored.size * np.log2(levels)),
        "zlib_bits": 8.0 * len(zlib.compress(content, 9)),
        "zstd_bits": 8.0 * len(zstd),
    }
