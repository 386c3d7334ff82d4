"""How often each word occurs: sorted, so that the same words give the same arrays whatever order they came in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WordCounts:
    """Words and their counts.

    Attributes:
        words: large_binary, UTF-8, ascending by bytes, each once.
        counts: int64, one for each word, at least 1.
    """

    words: pa.LargeBinaryArray
    counts: Counts

    @classmethod
    def of(cls, counted: Mapping[str, int]) -> WordCounts:
        """From a dictionary."""
        words = pa.array([word.encode() for word in counted], pa.large_binary())
        return _summed(words, np.fromiter(counted.values(), np.int64, len(counted)))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]]) -> WordCounts:
        """What `to_arrays` gave."""
        ends, blob = (pa.py_buffer(np.ascontiguousarray(arrays[name])) for name in ("ends", "words"))
        counts = arrays["counts"]
        return cls(pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(counts), [None, ends, blob]), counts)

    def to_arrays(self) -> dict[str, npt.NDArray[Any]]:
        """`words` uint8, all words one after another; `ends` int64 [n + 1]; `counts` int64 [n]."""
        _, ends, blob = self.words.buffers()
        ends_of = np.frombuffer(ends, np.int64, len(self.words) + 1, self.words.offset * 8)
        letters = np.frombuffer(blob, np.uint8) if blob is not None else np.empty(0, np.uint8)
        return {"words": letters[ends_of[0] : ends_of[-1]], "ends": ends_of - ends_of[0], "counts": self.counts}

    @property
    def total(self) -> int:
        """Words, repetitions counted."""
        return int(self.counts.sum())

    def merged(self, other: WordCounts) -> WordCounts:
        """Counts of both together."""
        words = pa.concat_arrays([self.words, other.words])
        return _summed(words, np.concatenate([self.counts, other.counts]))

    def distance(self, other: WordCounts) -> float:
        """Total variation distance of the two distributions of words, 0 to 1: half the sum of `|p - q|`."""
        shares = np.concatenate([self.counts / max(1, self.total), -other.counts / max(1, other.total)])
        table = pa.table({"word": pa.concat_arrays([self.words, other.words]), "share": shares})
        apart = table.group_by("word").aggregate([("share", "sum")]).column("share_sum").to_numpy()
        return float(np.sort(np.abs(apart)).sum() / 2)  # sorted: groups come in no order, and sums depend on it

    def sampled(self, limit: int) -> Counts:
        """Counts that add up to `limit` where the total is more, each within 1 of its exact share.

        Rounding goes along the sorted words (systematic sampling), so rare words are represented in proportion, while
        rounding each for itself would drop or blow up all of them. For totals up to 2^63 / limit.
        """
        if self.total <= limit:
            return self.counts
        reached = np.cumsum(self.counts) * limit // self.total
        return np.diff(reached, prepend=0)


def _summed(words: pa.Array, counts: Counts) -> WordCounts:
    table = pa.table({"word": words, "count": counts}).group_by("word").aggregate([("count", "sum")]).sort_by("word")
    merged = pa.concat_arrays(table.column("word").chunks) if len(table) else pa.array([], pa.large_binary())
    return WordCounts(merged, table.column("count_sum").to_numpy().astype(np.int64))
