"""Facts of keys in flat arrays, as they were spelled: several spellings of one key, several objects of each.

Facts are rows of codes into pools of distinct strings, sorted by key, then by the bytes of subject, predicate, meaning and
object; so they come in the same order whatever order they were given in.

Letters: K keys, R rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.models.graph.strings import Strings
from kxbatch.models.graph.triples import COLUMNS

Numbers = NDArray[np.int64]


class Row(NamedTuple):
    """One fact with one object."""

    subject: str
    predicate: str
    meaning: str
    object: str


@dataclass(frozen=True)
class Fact:
    """What a key says under one spelling.

    Attributes:
        subject: as it was spelled.
        predicate: likewise.
        meaning: which of several subjects of that name; may be empty.
        objects: one or more, in a fixed order.
    """

    subject: str
    predicate: str
    meaning: str
    objects: tuple[str, ...]


def grouped(rows: Iterable[Row]) -> list[Fact]:
    """Facts of sorted rows."""
    return [
        Fact(subject, predicate, meaning, tuple(row.object for row in same))
        for (subject, predicate, meaning), same in groupby(rows, key=lambda row: row[:3])
    ]


@dataclass(frozen=True, eq=False)
class Facts:
    """The rows of each key.

    Attributes:
        starts: unsigned [K + 1]; key k has the rows `starts[k]` to `starts[k + 1]`.
        pools: distinct subjects, predicates, meanings, objects.
        codes: unsigned [R] for each of these, where in its pool the string of each row is.
    """

    starts: NDArray[Any]
    pools: tuple[Strings, ...]
    codes: tuple[NDArray[Any], ...]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def of_keys(self, numbers: Numbers) -> list[list[Row]]:
        """The rows of keys, int64 [N], sorted.

        Raises:
            DataError: the arrays hold what no graph has.
        """
        try:
            return self._of_keys(numbers)
        except (IndexError, ValueError) as error:  # numbers outside of a pool, bytes that are no text
            raise DataError(f"the arrays of facts are damaged ({error}): build the graph again") from None

    def _of_keys(self, numbers: Numbers) -> list[list[Row]]:
        first, last = (self.starts[numbers + i].astype(np.int64) for i in (0, 1))
        counts = last - first
        ends = np.cumsum(counts)
        rows = np.repeat(first - ends + counts, counts) + np.arange(counts.sum())
        strings = [pool.take(codes[rows]) for pool, codes in zip(self.pools, self.codes, strict=True)]
        found = [Row(*values) for values in zip(*strings, strict=True)]
        return [found[end - count : end] for end, count in zip(ends.tolist(), counts.tolist(), strict=True)]

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As named arrays."""
        arrays = {"starts": self.starts}
        for name, pool, codes in zip(COLUMNS, self.pools, self.codes, strict=True):
            arrays |= {f"{name}.letters": pool.letters, f"{name}.starts": pool.starts, f"{name}.codes": codes}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Facts:
        """The inverse of `to_arrays`; what lies in a file stays there.

        Only names, types and lengths are looked at: a digest must vouch for what the arrays hold.

        Raises:
            DataError: an array is missing, or they contradict each other.
        """
        wanted = ["starts", *(f"{name}.{part}" for name in COLUMNS for part in ("letters", "starts", "codes"))]
        missing = [name for name in wanted if name not in arrays]
        if missing:
            raise DataError(f"facts without their arrays {', '.join(missing)}: build the graph again")
        for name in wanted:
            kind, letters = arrays[name].dtype, name.endswith("letters")
            if arrays[name].ndim != 1 or (kind != np.uint8 if letters else kind.kind != "u"):
                raise DataError(
                    f"array {name} of facts is {kind} {list(arrays[name].shape)}: damaged, build the graph again"
                )
        pools = tuple(Strings(arrays[f"{name}.letters"], arrays[f"{name}.starts"]) for name in COLUMNS)
        codes = tuple(arrays[f"{name}.codes"] for name in COLUMNS)
        ends = [(arrays["starts"], len(codes[0])), *((pool.starts, len(pool.letters)) for pool in pools)]
        fits = all(len(starts) and int(starts[-1]) == size for starts, size in ends)
        if not fits or len({len(column) for column in codes}) != 1:
            raise DataError("the arrays of facts contradict each other: damaged, build the graph again")
        return cls(arrays["starts"], pools, codes)
