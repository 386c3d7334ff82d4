"""Documents longer than an encoder reads: overlapping windows, and one set of spans out of what was found in them.

Every span is judged by one window: of those that hold it, the one in which it lies farthest from a border that is not the
document's own. What another window says of it, where less of its surroundings is seen, does not count. So a span is found once
or not at all; a piece of a name that a border cuts off is not taken for a name where another window holds the piece; and
if no decision depends on more than `overlap` tokens side by side, the result is that of one window over everything.

Letters: D documents, W windows, S spans that were found in windows. All numbers are tokens without special ones, ends exclusive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kxbatch.errors import ConfigError

Longs = npt.NDArray[np.int64]

_FAR = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Windows:
    """Windows of D documents, in order; a document without tokens has none.

    Attributes:
        documents: int64 [W], the document of each.
        firsts: int64 [W], its first token.
        lasts: int64 [W], one past its last token.
        lengths: int64 [D], tokens of each document.
    """

    documents: Longs
    firsts: Longs
    lasts: Longs
    lengths: Longs


@dataclass(frozen=True)
class Merged:
    """Spans of documents, by document, start and end.

    Attributes:
        kept: int64 [K], which of the spans in windows these are; types and scores are theirs.
        documents: int64 [K].
        starts: int64 [K], first token within the document.
        ends: int64 [K], one past the last.
    """

    kept: Longs
    documents: Longs
    starts: Longs
    ends: Longs


def windows(lengths: npt.NDArray[Any], size: int, overlap: int) -> Windows:
    """Cut documents; each window begins `size - overlap` tokens after the one before, the last one ends with its document.

    Args:
        lengths: integers [D], tokens of each document.
        size: tokens of a window at most.
        overlap: tokens that a window shares with the next, at least.

    Raises:
        ConfigError: windows would not get on.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ConfigError(
            f"windows of {size} tokens that overlap by {overlap}: the overlap is 0 or more and smaller than a window"
        )
    long = np.asarray(lengths, np.int64)
    step = size - overlap
    count = np.where(long > size, 1 + -(-(long - size) // step), (long > 0).astype(np.int64))
    documents = np.repeat(np.arange(len(long)), count)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(count) - count, count)
    lasts = np.minimum(number * step + size, long[documents])
    return Windows(documents, np.maximum(lasts - size, 0), lasts, long)


def merge(
    cut: Windows, rows: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any], types: npt.NDArray[Any]
) -> Merged:
    """Spans of documents out of spans of windows.

    Args:
        cut: the windows.
        rows: integers [S], the window each span was found in.
        starts: integers [S], first token within the window.
        ends: integers [S], one past the last.
        types: integers [S]; settle the order of spans that are equal otherwise.
    """
    documents = cut.documents[rows]
    first, end = cut.firsts[rows] + starts, cut.firsts[rows] + ends
    kept = np.flatnonzero(_judge(cut, documents, first, end) == rows)
    kept = kept[np.lexsort((types[kept], end[kept], first[kept], documents[kept]))]
    return Merged(kept, documents[kept], first[kept], end[kept])


def _judge(cut: Windows, documents: Longs, starts: Longs, ends: Longs) -> Longs:
    """int64 [S]: the window whose word counts for a span of a document; of equally good ones the first."""
    width = 1 + int(cut.lengths.max(initial=0))
    # Windows lie in order by their first and by their last token alike, so those that hold a span are neighbours.
    lowest = np.searchsorted(cut.documents * width + cut.lasts, documents * width + ends, "left")
    highest = np.searchsorted(cut.documents * width + cut.firsts, documents * width + starts, "right") - 1
    best, distance = lowest.copy(), _distance(cut, lowest, starts, ends)
    for further in range(1, 1 + int((highest - lowest).max(initial=0))):
        candidate = np.minimum(lowest + further, highest)
        farther = _distance(cut, candidate, starts, ends)
        best = np.where(farther > distance, candidate, best)
        distance = np.maximum(farther, distance)
    return best


def _distance(cut: Windows, rows: Longs, starts: Longs, ends: Longs) -> Longs:
    """int64 [S]: tokens between a span and the nearer border of a window that holds it, borders of the document not counted."""
    first, last = cut.firsts[rows], cut.lasts[rows]
    before = np.where(first == 0, _FAR, starts - first)
    after = np.where(last == cut.lengths[cut.documents[rows]], _FAR, last - ends)
    return np.minimum(before, after)
