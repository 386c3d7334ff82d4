"""Passes over a tile of levels: the few that can matter are found by comparing 64 columns at once.

A tile is `[rows, groups, 64]`, a view of integers on the floats that the matrix product wrote: with plain ranges as
indices the compiler turns the inner loops into vector instructions, with computed ones it does not.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.candidates import (
    FLUSHED,
    Candidates,
    Rows,
    Scratch,
    key_of,
    kth_largest,
    make_room,
    raise_floor,
    value_of,
)
from kxbatch.kernels.knn.jit import jit

GROUP = 64  # columns a test; sides of the problem are padded to a multiple

Tile = NDArray[np.signedinteger]


@jit
def filter_tile(tile: Tile, i0: int, j0: int, rows: Rows, candidates: Candidates, scratch: Scratch) -> None:
    """Offers each pair i < j of a tile to both its rows.

    Args:
        tile: `[rows, groups, 64]`, upper bounds of the levels.
        i0: the packed row of the first row.
        j0: the packed row of the first column.
        rows: for exact scores where a buffer is full.
        candidates: receives the pairs that reach a floor.
        scratch: of this thread.
    """
    floor, fill, entry, flip = candidates.floor, candidates.fill, candidates.entry, candidates.flip
    height, groups, _ = tile.shape
    below = floor[j0 : j0 + groups * GROUP].reshape(groups, GROUP)
    flags, words = scratch.flags, scratch.flags.view(np.uint64)
    for r in range(height):
        for g in range(groups):
            here, hit = floor[i0 + r], False
            for c in range(GROUP):
                hit |= key_of(tile[r, g, c], flip) >= min(here, below[g, c])
            if not hit:
                continue
            for c in range(GROUP):
                flags[c] = key_of(tile[r, g, c], flip) >= min(here, below[g, c])
            for w in range(GROUP // 8):
                if words[w] == 0:
                    continue
                for c in range(8 * w, 8 * w + 8):
                    i, j = i0 + r, j0 + g * GROUP + c
                    if flags[c] == 0 or j <= i:
                        continue
                    key = np.int64(key_of(tile[r, g, c], flip))
                    for _ in range(2):
                        if key >= floor[i]:
                            if fill[i, 0] == fill[i, 1]:
                                make_room(rows, candidates, i, scratch)
                            if key >= floor[i]:
                                entry[i, fill[i, 0]] = (key << 32) | j
                                fill[i, 0] += 1
                        i, j = j, i


@jit
def seed_floors(tile: Tile, i0: int, j0: int, nth: int, candidates: Candidates) -> None:
    """First floors of the rows of a tile.

    The maxima of interleaved classes of columns belong to distinct columns, so the k-th largest of them bounds the k-th
    best from below. Does nothing where the tile has too few columns.

    Args:
        tile: `[rows, groups, 64]`, upper bounds of the levels.
        i0: the packed row of the first row.
        j0: the packed row of the first column.
        nth: k, or k + 1 where a row meets itself in the tile.
        candidates: whose floors are raised.
    """
    height, groups, _ = tile.shape
    flip, drop, allowance = candidates.flip, candidates.drop, candidates.allowance
    classes = 1
    while classes * GROUP < 2 * nth and 2 * classes <= groups:
        classes *= 2
    if classes * GROUP < nth:
        return
    worst = np.zeros(5)
    for j in range(j0, j0 + groups * GROUP):
        for q in range(5):
            worst[q] = max(worst[q], allowance[j, q])
    peaks = np.empty((classes, GROUP), tile.dtype)
    values = np.empty(classes * GROUP, np.float32)
    for r in range(height):
        peaks[:] = candidates.flip ^ -1
        for g in range(groups):
            for c in range(GROUP):
                peaks[g % classes, c] = max(peaks[g % classes, c], key_of(tile[r, g, c], flip))
        for g in range(classes):
            for c in range(GROUP):
                values[g * GROUP + c] = value_of(peaks[g, c], flip, drop)
        level = np.float64(kth_largest(values, classes * GROUP, nth))
        own = allowance[i0 + r]
        gap = own[0] * worst[1] + own[2] * worst[0] + own[3] * worst[4] + own[4] * worst[3]
        raise_floor(candidates, i0 + r, level - abs(level) * candidates.rounding - 2.00001 * gap - FLUSHED)
