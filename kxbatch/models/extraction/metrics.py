"""How good found spans are: precision, recall and F1 over sets of (text, start, end, type), as CoNLL-2003 counts them.

A found span is right if a gold one has the same text, offsets and type; nothing else counts, in part or otherwise.

The nested subset. A span is *nested* if it lies inside another span of its text or holds one; of two with the same offsets
and different types each lies inside the other. Recall is over the gold spans that are nested among the gold ones, precision
over the found spans that are nested among the found ones, F1 is their harmonic mean. The flat subset are all others.

Letters: S spans, G gold ones, F found ones, T types.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Booleans = NDArray[np.bool_]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SpanSet:
    """Spans of some texts, none twice, sorted by text, start, end and type.

    Attributes:
        rows: int64 [S], number of the text.
        starts: int64 [S].
        ends: int64 [S], exclusive, above `starts`.
        types: int64 [S], from 0 on.
    """

    rows: Numbers
    starts: Numbers
    ends: Numbers
    types: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def columns(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """What a span is told apart by, in sorting order."""
        return self.rows, self.starts, self.ends, self.types

    def take(self, places: Numbers | Booleans) -> SpanSet:
        """Some of them; places ascend."""
        return SpanSet(*(column[places] for column in self.columns))


@dataclass(frozen=True)
class Measure:
    """Counts of spans, and the shares that follow from them.

    Attributes:
        gold: gold spans.
        found: found spans.
        recalled: of the gold ones, those that were found.
        right: of the found ones, those that are gold. Differs from `recalled` only where the two subsets are chosen apart.
    """

    gold: int
    found: int
    recalled: int
    right: int

    @property
    def precision(self) -> float | None:
        """Right / found; None where nothing was found."""
        return self.right / self.found if self.found else None

    @property
    def recall(self) -> float | None:
        """Recalled / gold; None where there is no gold span."""
        return self.recalled / self.gold if self.gold else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both; 0 where one of them is 0 or undefined, None where both are undefined."""
        if not self.gold and not self.found:
            return None
        precision, recall = self.precision or 0.0, self.recall or 0.0
        return 2 * precision * recall / (precision + recall) if precision and recall else 0.0


@dataclass(frozen=True)
class Scores:
    """How good the found spans of some texts are.

    Attributes:
        micro: over all spans.
        by_type: [T], over those of each type.
        nested: over those that are nested on their side.
        flat: over those that are not.
    """

    micro: Measure
    by_type: tuple[Measure, ...]
    nested: Measure
    flat: Measure


def unique_spans(rows: Numbers, starts: Numbers, ends: Numbers, types: Numbers) -> Numbers:
    """Places of the spans that differ, int64, in the order a `SpanSet` has; of equal ones the first is kept."""
    columns = (rows, starts, ends, types)
    order = np.lexsort(columns[::-1])
    return order[_first_of_equal(columns, order)]


def scores(gold: SpanSet, found: SpanSet, types: int) -> Scores:
    """Compares spans.

    Args:
        gold: what is right.
        found: what was found in the same texts.
        types: T, how many types there are.
    """
    recalled, right = is_among(gold, found), is_among(found, gold)
    inside, among = is_nested(gold), is_nested(found)
    counts = [
        np.bincount(kinds, minlength=types).tolist()
        for kinds in (gold.types, found.types, gold.types[recalled], found.types[right])
    ]
    return Scores(
        Measure(len(gold), len(found), int(recalled.sum()), int(right.sum())),
        tuple(Measure(*numbers) for numbers in zip(*counts, strict=True)),
        _of(recalled[inside], right[among]),
        _of(recalled[~inside], right[~among]),
    )


def is_among(spans: SpanSet, others: SpanSet) -> Booleans:
    """Whether each span is one of the others, bool [S]."""
    numbers = equal_numbers(spans.columns, others.columns)
    return np.isin(numbers[0], numbers[1])


def equal_numbers(left: Sequence[Numbers], right: Sequence[Numbers]) -> tuple[Numbers, Numbers]:
    """Numbers for two tables of rows, equal where the rows are equal.

    Args:
        left: columns, int64 [n] each.
        right: as many columns, int64 [m] each.
    """
    columns = [np.concatenate(pair) for pair in zip(left, right, strict=True)]
    order = np.lexsort(columns[::-1])
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(_first_of_equal(columns, order))
    return numbers[: len(left[0])], numbers[len(left[0]) :]


def is_nested(spans: SpanSet) -> Booleans:
    """Whether each span lies inside another one of its text or holds one, bool [S]."""
    nested = np.zeros(len(spans), bool)
    if not len(spans):
        return nested
    order = np.lexsort((-spans.ends, spans.starts, spans.rows))  # whoever holds a span stands before it
    ends = spans.ends[order] + spans.rows[order] * (int(spans.ends.max()) + 1)  # those of a later text are larger
    furthest = np.maximum.accumulate(ends)[:-1]
    nearest = np.minimum.accumulate(ends[::-1])[::-1][1:]
    within, holding = np.zeros(len(spans), bool), np.zeros(len(spans), bool)
    within[1:], holding[:-1] = furthest >= ends[1:], nearest <= ends[:-1]
    nested[order] = within | holding
    return nested


def _of(recalled: Booleans, right: Booleans) -> Measure:
    return Measure(len(recalled), len(right), int(recalled.sum()), int(right.sum()))


def _first_of_equal(columns: Sequence[Numbers], order: Numbers) -> Booleans:
    """Of rows in a sorted order, whether each differs from the one before, bool [n]."""
    differs = np.zeros(len(order), bool)
    differs[:1] = True
    for column in columns:
        differs[1:] |= column[order[1:]] != column[order[:-1]]
    return differs
