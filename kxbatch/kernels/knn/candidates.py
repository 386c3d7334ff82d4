"""What the first pass knows of each row: a floor, and the candidates at or above it.

The first pass sees of a pair (i, j) an upper bound u of its *level* (the score on the scale of the tiles, see `pack`);
u minus twice the allowance of the pair is a lower bound. The *floor* of a row is the k-th largest lower bound seen, so a
pair whose upper bound is below it cannot be among the k best. Values are kept as *keys*: the bits of a float32, or of a
bfloat16, with those of negative numbers flipped, which are integers in the order of the values.

Letters: N packed rows, C room for candidates a row, G groups of `LANES` columns.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.knn.jit import jit
from kxbatch.kernels.knn.scoring import LANES, offer, score_rows

LOWEST = -(2.0**90)  # below every level, above padding: the first floor
PADDING = -(2.0**100)  # what a padding row adds to every level, times the anchor of the other row
FLUSHED = 2.0**-100  # what may be lost of a level where a unit flushes small numbers to zero
STEP = 10  # candidates that may come before a floor is looked at again
ROOM = 44  # room for candidates beside twice k


class Rows(NamedTuple):
    """What the exact score of a pair needs.

    Attributes:
        x: `[N, G, LANES]` float32, the vectors as given, padded with zeros.
        weight: `[N]` float64, see `score_rows`.
        identity: `[N]` int64, the number that breaks ties.
        euclidean: whether scores are minus distances.
        factor: level = factor * score - shift, or factor * (-distance^2 / 2) - shift.
        shift: see `factor`.
    """

    x: NDArray[np.float32]
    weight: NDArray[np.float64]
    identity: NDArray[np.int64]
    euclidean: bool
    factor: float
    shift: float


class Candidates(NamedTuple):
    """The state of all rows; a row is written by one thread at a time.

    Attributes:
        k: neighbours wanted.
        floor: `[N]` int16 or int32, keys.
        fill: `[N, 2]` int32, candidates held, and how many may be held before the floor is looked at.
        entry: `[N, C]` int64, key * 2^32 + the other row.
        allowance: `[N, 5]` float32 (E, S, T, D, a); of a pair: E_i S_j + T_i E_j + a_j D_i + a_i D_j.
        rounding: what the rounding of a tile element to its format may take away, relative.
        flip: the key type's largest value: xor with it mirrors the order of negative numbers.
        drop: bits of a float32 that a key leaves out (0 or 16).
    """

    k: int
    floor: NDArray[np.signedinteger]
    fill: NDArray[np.int32]
    entry: NDArray[np.int64]
    allowance: NDArray[np.float32]
    rounding: float
    flip: np.signedinteger
    drop: int


class Scratch(NamedTuple):
    """What one thread needs beside."""

    lanes: NDArray[np.float64]
    values: NDArray[np.float32]
    others: NDArray[np.int32]
    scores: NDArray[np.float64]
    best: NDArray[np.float64]
    who: NDArray[np.int64]
    flags: NDArray[np.uint8]


def new_candidates(k: int, available: int, allowance: NDArray[np.float32], half: bool) -> Candidates:
    """Empty candidates with the lowest floor.

    Args:
        k: neighbours wanted.
        available: how many candidates a row can have at most.
        allowance: `[N, 5]`.
        half: tiles are bfloat16, else float32.
    """
    n, room = len(allowance), min(2 * k + ROOM, available)
    key = np.dtype(np.int16 if half else np.int32)
    drop = 16 if half else 0
    return Candidates(
        k=k,
        floor=np.full(n, key_below(LOWEST, drop), key),
        fill=np.tile(np.array([0, min(2 * k, room)], np.int32), (n, 1)),
        entry=np.empty((n, room), np.int64),
        allowance=allowance,
        rounding=2.0**-8 * (1 + 2.0**-7) + 2.0**-22 if half else 2.0**-22,
        flip=key.type(np.iinfo(key).max),
        drop=drop,
    )


def new_scratch(candidates: Candidates) -> Scratch:
    """Scratch for one thread."""
    room = candidates.entry.shape[1]
    return Scratch(
        lanes=np.zeros(LANES),
        values=np.empty(room, np.float32),
        others=np.empty(room, np.int32),
        scores=np.empty(room),
        best=np.empty(candidates.k),
        who=np.empty(candidates.k, np.int64),
        flags=np.zeros(64, np.uint8),
    )


@jit
def key_of(element: int, flip: int) -> int:
    """Key of the bits of a float, or the bits of a key."""
    return (element ^ flip) if element < 0 else element


@jit
def value_of(key: int, flip: int, drop: int) -> np.float32:
    """The value whose key it is."""
    return np.int32(key_of(key, flip) << drop).view(np.float32)


@jit
def key_below(level: float, drop: int) -> int:
    """A key that whatever is at or above `level` reaches once it is rounded to nearest."""
    bits = np.int64(np.float32(level - FLUSHED).view(np.int32))
    half = (1 << drop) >> 1
    if bits >= 0:
        return (bits + max(half - 1, 0)) >> drop
    return -1 - (((bits & 0x7FFFFFFF) + half) >> drop)


@jit
def raise_floor(candidates: Candidates, i: int, level: float) -> None:
    """Raises the floor of row i to a level that its k-th best is known to reach."""
    key = key_below(level, candidates.drop)
    if key > candidates.floor[i]:
        candidates.floor[i] = key


@jit
def raise_to_score(rows: Rows, candidates: Candidates, i: int, score: float) -> None:
    """Raises the floor of row i to the exact score of a k-th best."""
    level = rows.factor * (-0.5 * score * score if rows.euclidean else score)
    raise_floor(candidates, i, level - rows.shift - 2.0**-45 * (abs(level) + abs(rows.shift)))


@jit
def kth_largest(values: NDArray[np.float32], size: int, k: int) -> np.float32:
    """The k-th largest of the first `size` values, which are reordered (Hoare 1961, algorithm 65)."""
    lo, hi = 0, size - 1
    while lo < hi:
        pivot, a, b = values[(lo + hi) // 2], lo, hi
        while a <= b:
            while values[a] > pivot:
                a += 1
            while values[b] < pivot:
                b -= 1
            if a <= b:
                values[a], values[b] = values[b], values[a]
                a += 1
                b -= 1
        if k - 1 <= b:
            hi = b
        elif k - 1 >= a:
            lo = a
        else:
            break
    return values[k - 1]


@jit
def tighten(candidates: Candidates, i: int, scratch: Scratch) -> None:
    """Raises the floor of row i to the k-th largest lower bound and drops what is below it."""
    k, size, room = candidates.k, candidates.fill[i, 0], candidates.entry.shape[1]
    flip, drop, allowance = candidates.flip, candidates.drop, candidates.allowance
    if size >= k:
        e, t, d = np.float64(allowance[i, 0]), np.float64(allowance[i, 2]), np.float64(allowance[i, 3])
        own = np.float64(allowance[i, 4])
        for a in range(size):
            entry = candidates.entry[i, a]
            j = entry & 0xFFFFFFFF
            upper = np.float64(value_of(entry >> 32, flip, drop))
            gap = e * allowance[j, 1] + t * allowance[j, 0] + d * allowance[j, 4] + own * allowance[j, 3]
            scratch.values[a] = upper - abs(upper) * candidates.rounding - 2.00001 * gap - FLUSHED
        raise_floor(candidates, i, np.float64(kth_largest(scratch.values, size, k)))
        least = np.int64(candidates.floor[i]) << 32
        kept = 0
        for a in range(size):
            candidates.entry[i, kept] = candidates.entry[i, a]
            kept += candidates.entry[i, a] >= least
        candidates.fill[i, 0] = size = kept
    candidates.fill[i, 1] = min(max(size + STEP + k // 4, 2 * k), room)


@jit
def score_held(rows: Rows, candidates: Candidates, i: int, scratch: Scratch) -> int:
    """Exact scores of the candidates of row i, into the scratch; returns how many."""
    size = candidates.fill[i, 0]
    for a in range(size):
        scratch.others[a] = candidates.entry[i, a] & 0xFFFFFFFF
    score_rows(rows.x, rows.weight, rows.euclidean, i, scratch.others[:size], scratch.lanes, scratch.scores)
    return size


@jit
def refine(rows: Rows, candidates: Candidates, i: int, scratch: Scratch) -> None:
    """Keeps the k best of a full buffer by their exact scores: near-duplicates that no bound tells apart."""
    size, kept = score_held(rows, candidates, i, scratch), 0
    for a in range(size):
        kept = offer(scratch.best, scratch.who, kept, scratch.scores[a], rows.identity[scratch.others[a]])
    worst, last = scratch.best[0], scratch.who[0]
    raise_to_score(rows, candidates, i, worst)
    kept = 0
    for a in range(size):
        score = scratch.scores[a]
        if score > worst or (score == worst and rows.identity[scratch.others[a]] <= last):
            candidates.entry[i, kept] = candidates.entry[i, a]
            kept += 1
    candidates.fill[i, 0] = kept
    candidates.fill[i, 1] = candidates.entry.shape[1]


@jit
def make_room(rows: Rows, candidates: Candidates, i: int, scratch: Scratch) -> None:
    """Makes room for at least one more candidate of row i."""
    tighten(candidates, i, scratch)
    if candidates.fill[i, 0] == candidates.entry.shape[1]:
        refine(rows, candidates, i, scratch)
