"""The compiled part of the search: exact scores, the candidates of each row, the filter on tiles, the lists.

One file on purpose: numba's cache notices a change in the file of a function, not in the files of the functions it calls,
so compiled functions that call each other live together.

Scores. A sum runs over `LANES` interleaved partial sums that are then added by halving. The product of two float32 numbers
is exact in float64, so a fused multiply-add would change nothing, and zeros appended to a row change nothing either: the
score of a pair is the same bits on every machine. Inside this package larger is better: a Euclidean distance is scored as
its negative.

Candidates. The first pass sees of a pair (i, j) an upper bound u of its *level* (the score on the scale of the tiles, see
`pack`); u minus twice the allowance of the pair is a lower bound. The *floor* of a row is the k-th largest lower bound seen,
so a pair whose upper bound is below it cannot be among the k best. Values are kept as *keys*: the bits of a float32, or of
a bfloat16, with those of negative numbers mirrored, which are integers in the order of the values.

Tiles. A tile is `[rows, groups, GROUP]`, a view of integers on the floats that the matrix product wrote: with plain ranges
as indices the compiler turns the inner loops into vector instructions, with computed ones it does not.

Letters: N packed rows, C room for candidates a row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

LANES = 32
GROUP = 64  # columns the filter tests at once; blocks are padded to a multiple
LOWEST = -(2.0**90)  # below every level, above padding: the first floor
PADDING = -(2.0**100)  # what a padding row adds to every level, times the anchor of the other row
FLUSHED = 2.0**-100  # what may be lost of a level where a unit flushes small numbers to zero
STEP = 10  # candidates that may come before a floor is looked at again
ROOM = 44  # room for candidates beside twice k

Tile = NDArray[np.signedinteger]
Integer = Any  # of any width in compiled code, where each type of an argument is compiled on its own


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
    flip: np.int16 | np.int32
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
    flip, drop = (np.int16(0x7FFF), 16) if half else (np.int32(0x7FFFFFFF), 0)
    return Candidates(
        k=k,
        floor=np.full(n, key_below(LOWEST, drop), flip.dtype),
        fill=np.tile(np.array([0, min(2 * k, room)], np.int32), (n, 1)),
        entry=np.empty((n, room), np.int64),
        allowance=allowance,
        rounding=2.0**-8 * (1 + 2.0**-7) + 2.0**-22 if half else 2.0**-22,
        flip=flip,
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
        flags=np.zeros(GROUP, np.uint8),
    )


@jit
def _add_up(lanes: NDArray[np.float64]) -> float:
    """Sum of the lanes as a tree of fixed shape; the lanes are used up."""
    half = lanes.shape[0] // 2
    while half:
        for q in range(half):
            lanes[q] += lanes[q + half]
        half //= 2
    return float(lanes[0])


@jit
def squared_norms(x: NDArray[np.float32], rows: NDArray[np.int64], out: NDArray[np.float64]) -> None:
    """Squared norms, summed in the order of `score_rows`.

    Args:
        x: `[n, d]`.
        rows: `[m]` rows of `x`.
        out: `[m]`, receives the result.
    """
    lanes = np.zeros(LANES)
    for r in range(rows.shape[0]):
        lanes[:] = 0.0
        for start in range(0, x.shape[1], LANES):
            for q in range(start, min(start + LANES, x.shape[1])):
                lanes[q - start] += np.float64(x[rows[r], q]) * np.float64(x[rows[r], q])
        out[r] = _add_up(lanes)


@jit
def score_rows(
    x: NDArray[np.float32],
    weight: NDArray[np.float64],
    euclidean: bool,
    i: int,
    others: NDArray[np.int32],
    lanes: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Scores row i against other rows.

    Args:
        x: `[n, groups, LANES]`, rows padded with zeros.
        weight: `[n]`; a product is multiplied with `weight[i] * weight[j]` (inverse norms make it a cosine).
        euclidean: score by minus the distance instead.
        i: a row of `x`.
        others: `[m]` rows of `x`.
        lanes: `[LANES]`, scratch.
        out: `[m]` or more, receives the scores.
    """
    for a in range(others.shape[0]):
        j = others[a]
        lanes[:] = 0.0
        if euclidean:
            for g in range(x.shape[1]):
                for q in range(LANES):
                    gap = np.float64(x[i, g, q]) - np.float64(x[j, g, q])
                    lanes[q] += gap * gap
            out[a] = -np.sqrt(_add_up(lanes))
        else:
            for g in range(x.shape[1]):
                for q in range(LANES):
                    lanes[q] += np.float64(x[i, g, q]) * np.float64(x[j, g, q])
            out[a] = _add_up(lanes) * (weight[i] * weight[j])


@jit
def _worse(score: float, index: int, other_score: float, other_index: int) -> bool:
    return score < other_score or (score == other_score and index > other_index)


@jit
def _sink(scores: NDArray[np.float64], indices: NDArray[np.int64], size: Integer) -> None:
    """Restores the heap after its top changed."""
    score, index, hole = scores[0], indices[0], 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and _worse(scores[child + 1], indices[child + 1], scores[child], indices[child]):
            child += 1
        if not _worse(scores[child], indices[child], score, index):
            break
        scores[hole], indices[hole] = scores[child], indices[child]
        hole = child
    scores[hole], indices[hole] = score, index


@jit
def offer(scores: NDArray[np.float64], indices: NDArray[np.int64], size: Integer, score: float, index: int) -> Integer:
    """Offers a candidate to a bounded heap that keeps the best: larger score first, then smaller index.

    Args:
        scores: `[k]`, the worst kept on top.
        indices: `[k]`, whose scores they are.
        size: how many are kept now.
        score: of the candidate.
        index: of the candidate.

    Returns:
        How many are kept afterwards.
    """
    if size == scores.shape[0]:
        if _worse(scores[0], indices[0], score, index):
            scores[0], indices[0] = score, index
            _sink(scores, indices, size)
        return size
    hole = size
    while hole:
        parent = (hole - 1) // 2
        if not _worse(score, index, scores[parent], indices[parent]):
            break
        scores[hole], indices[hole] = scores[parent], indices[parent]
        hole = parent
    scores[hole], indices[hole] = score, index
    return size + 1


@jit
def best_first(scores: NDArray[np.float64], indices: NDArray[np.int64], size: Integer) -> None:
    """Sorts what `offer` kept, in place, best first."""
    for last in range(size - 1, 0, -1):
        scores[0], scores[last] = scores[last], scores[0]
        indices[0], indices[last] = indices[last], indices[0]
        _sink(scores, indices, last)


@jit
def key_of(element: Integer, flip: Integer) -> Integer:
    """Key of the bits of a float, or the bits of a key."""
    return (element ^ flip) if element < 0 else element


@jit
def value_of(key: Integer, flip: Integer, drop: int) -> np.float32:
    """The value whose key it is."""
    return np.int32(key_of(key, flip) << drop).view(np.float32)


@jit
def key_below(level: float, drop: int) -> Integer:
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
def kth_largest(values: NDArray[np.float32], size: Integer, k: int) -> np.float32:
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
    return np.float32(values[k - 1])


@jit
def tighten(candidates: Candidates, i: int, scratch: Scratch) -> None:
    """Raises the floor of row i to the k-th largest lower bound and drops what is below it."""
    k, size, room = candidates.k, np.int64(candidates.fill[i, 0]), candidates.entry.shape[1]
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
        kept = np.int64(0)
        for a in range(size):
            candidates.entry[i, kept] = candidates.entry[i, a]
            kept += candidates.entry[i, a] >= least
        candidates.fill[i, 0] = size = kept
    candidates.fill[i, 1] = min(max(size + STEP + k // 4, 2 * k), room)


@jit
def score_held(rows: Rows, candidates: Candidates, i: int, scratch: Scratch) -> np.int64:
    """Exact scores of the candidates of row i, into the scratch; returns how many."""
    size = np.int64(candidates.fill[i, 0])
    for a in range(size):
        scratch.others[a] = candidates.entry[i, a] & 0xFFFFFFFF
    score_rows(rows.x, rows.weight, rows.euclidean, i, scratch.others[:size], scratch.lanes, scratch.scores)
    return size


@jit
def refine(rows: Rows, candidates: Candidates, i: int, scratch: Scratch) -> None:
    """Keeps the k best of a full buffer by their exact scores: near-duplicates that no bound tells apart."""
    size, kept = score_held(rows, candidates, i, scratch), np.int64(0)
    for a in range(size):
        kept = offer(scratch.best, scratch.who, kept, scratch.scores[a], rows.identity[scratch.others[a]])
    worst, last = scratch.best[0], scratch.who[0]
    raise_to_score(rows, candidates, i, worst)
    kept = np.int64(0)
    for a in range(size):
        score = scratch.scores[a]
        if score > worst or (score == worst and rows.identity[scratch.others[a]] <= last):
            candidates.entry[i, kept] = candidates.entry[i, a]
            kept += 1
    candidates.fill[i, 0] = kept
    candidates.fill[i, 1] = candidates.entry.shape[1]


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
                                tighten(candidates, i, scratch)
                                if fill[i, 0] == entry.shape[1]:
                                    refine(rows, candidates, i, scratch)
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


@jit
def rerank(
    lo: int,
    hi: int,
    rows: Rows,
    candidates: Candidates,
    scratch: Scratch,
    scores: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """Writes the lists of the packed rows lo to hi.

    Args:
        lo: first packed row.
        hi: end of the packed rows.
        rows: the vectors.
        candidates: which hold the k best of each row, and some more.
        scratch: of this thread.
        scores: `[n, k]`, indexed by identity; receives the scores, best first.
        who: `[n, k]`, indexed by identity; receives the identities.
    """
    for i in range(lo, hi):
        tighten(candidates, i, scratch)
        own, kept = rows.identity[i], np.int64(0)
        for a in range(score_held(rows, candidates, i, scratch)):
            kept = offer(scores[own], who[own], kept, scratch.scores[a], rows.identity[scratch.others[a]])
        best_first(scores[own], who[own], kept)


@jit
def apply_floors(lo: int, hi: int, rows: Rows, candidates: Candidates, floors: NDArray[np.float64]) -> None:
    """Starts the packed rows lo to hi from known k-th best scores, `[n]`, indexed by identity."""
    for i in range(lo, hi):
        raise_to_score(rows, candidates, i, floors[rows.identity[i]])


@jit
def expand(
    lo: int,
    hi: int,
    of_row: NDArray[np.int64],
    members: NDArray[np.int64],
    starts: NDArray[np.int64],
    group_scores: NDArray[np.float64],
    group_who: NDArray[np.int64],
    own_score: NDArray[np.float64],
    scores: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """Writes out lists of groups as lists of rows, for the rows lo to hi.

    The k best groups suffice: the smallest rows of them are k rows that no row of another group beats.

    Args:
        lo: first row.
        hi: end of the rows.
        of_row: `[n]`, the group of each row.
        members: of the groups that stand in the lists.
        starts: of the groups that stand in the lists.
        group_scores: `[groups, k]`, best first.
        group_who: `[groups, k]`, -1 behind the last.
        own_score: `[groups]`, the score of a row with its own copies; empty where a row's own group is no candidate
            (two different blocks).
        scores: `[n, k]`, receives the result.
        who: `[n, k]`, receives the result.
    """
    for i in range(lo, hi):
        g, size = of_row[i], np.int64(0)
        if own_score.shape[0]:
            for m in range(starts[g], min(starts[g + 1], starts[g] + scores.shape[1] + 1)):
                if members[m] != i:
                    size = offer(scores[i], who[i], size, own_score[g], members[m])
        for a in range(group_who.shape[1]):
            h, score = group_who[g, a], group_scores[g, a]
            if h < 0 or (size == scores.shape[1] and score < scores[i, 0]):
                break
            for m in range(starts[h], min(starts[h + 1], starts[h] + scores.shape[1])):
                size = offer(scores[i], who[i], size, score, members[m])
        best_first(scores[i], who[i], size)


@jit
def best_of(
    scores: NDArray[np.float64],
    indices: NDArray[np.int64],
    best: NDArray[np.float64],
    who: NDArray[np.int64],
) -> None:
    """The k best of each row.

    Args:
        scores: `[n, m]`.
        indices: `[n, m]`, negative where there is no candidate.
        best: `[n, k]`, receives the scores, best first.
        who: `[n, k]`, receives the indices.
    """
    for i in range(scores.shape[0]):
        size = np.int64(0)
        for a in range(scores.shape[1]):
            if indices[i, a] >= 0:
                size = offer(best[i], who[i], size, scores[i, a], indices[i, a])
        best_first(best[i], who[i], size)
