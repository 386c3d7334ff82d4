"""What is wrong with found spans. Every found and every gold span counts exactly once, so the kinds add up.

Spans that are right are put aside. Of the others, found and gold ones that share a character are paired, each with one at
most: first those of equal offsets (a wrong *type*), then those of equal type (a wrong *boundary*), then the rest (*boundary
and type*); within a kind the pair with the largest share of common characters, |intersection| / |union|, comes first. Found
spans that stay alone are *spurious*, gold ones *missed*. This is the split of MUC-5 (Chinchor and Sundheim, 1993) by what
differs, with a rule for spans that lie inside each other.

Letters: G gold spans, F found ones, P pairs that overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.models.extraction.metrics import Numbers, SpanSet, equal_numbers

KINDS = ("right", "type", "boundary", "boundary and type", "spurious", "missed")
RIGHT, TYPE, BOUNDARY, BOTH, SPURIOUS, MISSED = range(len(KINDS))
NOBODY = -1


@dataclass(frozen=True, eq=False)
class Judged:
    """What became of every span.

    Attributes:
        gold: int8 [G], place in `KINDS`; none is spurious.
        found: int8 [F], the same; none is missed.
        partners: int64 [F], the gold span each found one is paired with, equal or not; `NOBODY` for the spurious.
    """

    gold: NDArray[np.int8]
    found: NDArray[np.int8]
    partners: Numbers

    def counts(self) -> dict[str, int]:
        """How many of each kind: pairs, and spans that stay alone."""
        numbers = np.bincount(self.found, minlength=len(KINDS))
        numbers[MISSED] = np.count_nonzero(self.gold == MISSED)
        return dict(zip(KINDS, numbers.tolist(), strict=True))


def judge(gold: SpanSet, found: SpanSet) -> Judged:
    """Says of every span whether it is right, or what is wrong with it.

    Args:
        gold: what is right.
        found: what was found in the same texts.
    """
    judged = Judged(
        np.full(len(gold), MISSED, np.int8),
        np.full(len(found), SPURIOUS, np.int8),
        np.full(len(found), NOBODY, np.int64),
    )
    numbers = equal_numbers(gold.columns, found.columns)
    _, in_gold, in_found = np.intersect1d(*numbers, assume_unique=True, return_indices=True)
    _pair(judged, in_gold, in_found, RIGHT)
    gold_left, found_left = (np.flatnonzero(kinds != RIGHT) for kinds in (judged.gold, judged.found))
    for ours, theirs in _by_text(gold.rows[gold_left], found.rows[found_left]):
        _pair_overlapping(judged, gold, found, gold_left[ours], found_left[theirs])
    return judged


def _pair(judged: Judged, gold: Numbers | int, found: Numbers | int, kind: int) -> None:
    judged.gold[gold] = judged.found[found] = kind
    judged.partners[found] = gold


def _by_text(gold_rows: Numbers, found_rows: Numbers) -> Iterator[tuple[slice, slice]]:
    """The places of each text that is on both sides; rows ascend."""
    texts = np.intersect1d(gold_rows, found_rows)
    ours, theirs = (
        [slice(*pair) for pair in np.stack([rows.searchsorted(texts, "left"), rows.searchsorted(texts, "right")], 1)]
        for rows in (gold_rows, found_rows)
    )
    yield from zip(ours, theirs, strict=True)


def _pair_overlapping(judged: Judged, gold: SpanSet, found: SpanSet, ours: Numbers, theirs: Numbers) -> None:
    """Pairs spans of one text, the best pairs first."""
    wanted, given = gold.take(ours), found.take(theirs)
    common = np.minimum(wanted.ends[:, None], given.ends) - np.maximum(wanted.starts[:, None], given.starts)
    g, f = np.nonzero(common > 0)
    if not len(g):
        return
    same_offsets = (wanted.starts[g] == given.starts[f]) & (wanted.ends[g] == given.ends[f])
    kinds = np.where(same_offsets, TYPE, np.where(wanted.types[g] == given.types[f], BOUNDARY, BOTH))
    lengths = (wanted.ends - wanted.starts)[g] + (given.ends - given.starts)[f]
    share = common[g, f] / (lengths - common[g, f])
    taken_gold, taken_found = set[int](), set[int]()
    for at in np.lexsort((f, g, -share, kinds)).tolist():
        one, other = int(g[at]), int(f[at])
        if one not in taken_gold and other not in taken_found:
            taken_gold.add(one)
            taken_found.add(other)
            _pair(judged, int(ours[one]), int(theirs[other]), int(kinds[at]))
