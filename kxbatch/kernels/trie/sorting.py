"""The compiled part of sorting and merging keys.

Keys are compared token by token; a key comes before the keys it is a prefix of. Sorting is multikey quicksort (Bentley and
Sedgewick 1997) that caches the next few tokens of each key in one word (Ng and Kakehi 2007): a word holds `width` fields of
`bits` bits, each a token plus one, or 0 behind the end of the key, so that words compare as the tokens do.

One file, so that numba's cache notices a change in any of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

Tokens = NDArray[np.unsignedinteger[Any]]
Offsets = NDArray[np.int64]

FEW = 12  # rows that are sorted by insertion
DEEP = 512  # spans that wait: at most two for each halving, and there are no more than 64 halvings


@jit
def compare(a: Tokens, p: int, p_end: int, b: Tokens, q: int, q_end: int) -> int:
    """Negative, 0 or positive as the key `a[p:p_end]` is below, equal to or above `b[q:q_end]`."""
    while p < p_end and q < q_end:
        if a[p] != b[q]:
            return -1 if a[p] < b[q] else 1
        p += 1
        q += 1
    return (p_end - p) - (q_end - q)


@jit
def load(tokens: Tokens, starts: Offsets, row: int, depth: int, bits: int, width: int) -> np.uint64:
    """The `width` tokens of a key from `depth` on as one word."""
    word, end = np.uint64(0), starts[row + 1]
    for at in range(starts[row] + depth, starts[row] + depth + width):
        word = word << np.uint64(bits)
        if at < end:
            word |= np.uint64(tokens[at]) + np.uint64(1)
    return word


@jit
def insert(
    tokens: Tokens, starts: Offsets, rows: Offsets, words: NDArray[np.uint64], lo: int, hi: int, depth: int
) -> None:
    """Sorts the few rows lo to hi, whose keys share `depth` tokens and whose words are loaded."""
    for i in range(lo + 1, hi):
        row, word, j = rows[i], words[i], i
        while j > lo:
            other = rows[j - 1]
            if words[j - 1] < word:
                break
            if words[j - 1] == word:
                p, q = starts[other] + depth, starts[row] + depth
                if compare(tokens, p, starts[other + 1], tokens, q, starts[row + 1]) <= 0:
                    break
            rows[j], words[j] = other, words[j - 1]
            j -= 1
        rows[j], words[j] = row, word


@jit
def median(a: np.uint64, b: np.uint64, c: np.uint64) -> np.uint64:
    """The middle one of three."""
    return max(min(a, b), min(max(a, b), c))


@jit
def sort_rows(tokens: Tokens, starts: Offsets, bits: int, width: int, rows: Offsets) -> None:
    """Sorts row numbers by the keys they name.

    Args:
        tokens: `[T]`.
        starts: `[N + 1]`.
        bits: of a field, enough for the largest token plus one.
        width: fields of a word.
        rows: `[N]`, every row once; receives the sorted order, equal keys in any order.
    """
    words = np.empty(rows.shape[0], np.uint64)
    field = (np.uint64(1) << np.uint64(bits)) - np.uint64(1)
    span = np.empty((DEEP, 3), np.int64)
    span[0, 0], span[0, 1], span[0, 2], waiting = 0, rows.shape[0], 0, 1
    for i in range(rows.shape[0]):
        words[i] = load(tokens, starts, rows[i], 0, bits, width)
    while waiting:
        waiting -= 1
        lo, hi, depth = span[waiting, 0], span[waiting, 1], span[waiting, 2]
        if hi - lo <= FEW:
            insert(tokens, starts, rows, words, lo, hi, depth)
            continue
        step = (hi - lo) // 4
        pivot = median(words[lo + step], words[lo + 2 * step], words[lo + 3 * step])
        below, i, above = lo, lo, hi
        while i < above:  # three-way partition (Dijkstra 1976)
            word, row = words[i], rows[i]
            if word < pivot:
                words[i], rows[i], words[below], rows[below] = words[below], rows[below], word, row
                below += 1
                i += 1
            elif word > pivot:
                above -= 1
                words[i], rows[i], words[above], rows[above] = words[above], rows[above], word, row
            else:
                i += 1
        if pivot & field != 0:  # else the keys end here, and are equal
            for j in range(below, above):
                words[j] = load(tokens, starts, rows[j], depth + width, bits, width)
        first = waiting
        for a, b, deeper in ((lo, below, 0), (below, above, width), (above, hi, 0)):
            if b - a > 1 and (deeper == 0 or pivot & field != 0):
                span[waiting, 0], span[waiting, 1], span[waiting, 2] = a, b, depth + deeper
                j = waiting
                while j > first and span[j, 1] - span[j, 0] > span[j - 1, 1] - span[j - 1, 0]:
                    for q in range(3):
                        span[j, q], span[j - 1, q] = span[j - 1, q], span[j, q]
                    j -= 1
                waiting += 1


@jit
def number_rows(tokens: Tokens, starts: Offsets, rows: Offsets, numbers: Offsets) -> int:
    """Numbers the distinct keys of sorted rows.

    Args:
        tokens: `[T]`.
        starts: `[N + 1]`.
        rows: `[N]`, sorted.
        numbers: `[N]`, receives the number of the key of each row.

    Returns:
        How many keys there are.
    """
    last = -1
    for i in range(rows.shape[0]):
        row, before = rows[i], rows[i - 1]
        if i == 0 or compare(tokens, starts[before], starts[before + 1], tokens, starts[row], starts[row + 1]) != 0:
            last += 1
        numbers[row] = last
    return last + 1


@jit
def number_pair(
    a: Tokens, a_starts: Offsets, b: Tokens, b_starts: Offsets, a_numbers: Offsets, b_numbers: Offsets
) -> int:
    """Numbers the keys of two sorted lists in their union; returns the size of the union."""
    i, j, last = 0, 0, 0
    a_size, b_size = a_numbers.shape[0], b_numbers.shape[0]
    while i < a_size or j < b_size:
        order = -1 if j == b_size else 1
        if i < a_size and j < b_size:
            order = compare(a, a_starts[i], a_starts[i + 1], b, b_starts[j], b_starts[j + 1])
        if order <= 0:
            a_numbers[i] = last
            i += 1
        if order >= 0:
            b_numbers[j] = last
            j += 1
        last += 1
    return last


@jit
def place(tokens: Tokens, starts: Offsets, numbers: Offsets, out: Tokens, out_starts: Offsets) -> None:
    """Copies key i to where `out_starts` wants key `numbers[i]`."""
    for i in range(numbers.shape[0]):
        at = out_starts[numbers[i]]
        for p in range(starts[i], starts[i + 1]):
            out[at] = tokens[p]
            at += 1


@jit
def take(tokens: Tokens, starts: Offsets, rows: Offsets, out: Tokens, out_starts: Offsets) -> None:
    """Copies key `rows[i]` to where `out_starts` wants key i."""
    for i in range(rows.shape[0]):
        at = out_starts[i]
        for p in range(starts[rows[i]], starts[rows[i] + 1]):
            out[at] = tokens[p]
            at += 1


@jit
def share(tokens: Tokens, starts: Offsets, shared: NDArray[np.uint32]) -> int:
    """How many tokens each key shares with the one before.

    Args:
        tokens: `[T]`.
        starts: `[N + 1]`.
        shared: `[N + 1]`, receives the counts; 0 at both ends.

    Returns:
        The first key that is not above the one before, -1 if the keys are sorted and distinct.
    """
    n = starts.shape[0] - 1
    shared[0] = shared[n] = 0
    for i in range(1, n):
        p, p_end, q, q_end = starts[i - 1], starts[i], starts[i], starts[i + 1]
        while p < p_end and q < q_end and tokens[p] == tokens[q]:
            p += 1
            q += 1
        if q == q_end or (p < p_end and tokens[p] > tokens[q]):
            return i
        shared[i] = q - starts[i]
    return -1
