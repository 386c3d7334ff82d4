"""Gold spans of texts to learn from: rows whose spans cannot be right are set aside, each with its reason.

Letters: R rows, S spans of all rows one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.span_columns import Fault, FlatSpans, Longs, faults
from kxbatch.errors import nearest


@dataclass(frozen=True, eq=False)
class Labels:
    """Spans of R rows.

    Attributes:
        column: where they were read.
        spans: right or not.
        null: bool [R], rows that have no list, not even an empty one.
    """

    column: str
    spans: FlatSpans
    null: npt.NDArray[np.bool_]

    @classmethod
    def read(cls, column: pa.ChunkedArray, name: str) -> Labels:
        """Of a column.

        Raises:
            DataError: it holds something else.
        """
        return cls(name, FlatSpans.read(column, name), column.is_null().to_numpy())

    def numbers(self, types: tuple[str, ...]) -> Longs:
        """The number of each span's type, int64 [S]; -1 for others."""
        found = pc.fill_null(pc.index_in(self.spans.types, pa.array(types, pa.large_string())), -1)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.int64)

    def faults(self, lengths: npt.NDArray[Any], types: tuple[str, ...] | None) -> dict[int, Fault]:
        """Rows that cannot be learned from.

        Args:
            lengths: integers [R], code points of the texts.
            types: those that are known; None: all are.
        """
        words = f"column '{self.column}'"
        found = {row: Fault(one.reason, f"{words}: {one.words}") for row, one in faults(self.spans, lengths).items()}
        if types is not None:
            known = f"known are {', '.join(types)}"
            wrong = self.numbers(types) < 0
            names = self.spans.types.filter(pa.array(wrong)).to_pylist()
            told = {name: f"{words}: type {name!r}; {known}{nearest(str(name), types)}" for name in set(names)}
            for row, name in zip(self.spans.rows[wrong].tolist(), names, strict=True):
                found.setdefault(row, Fault("unknown-type", told[name]))
        null = Fault("null-labels", f"{words} is null; a text without entities has an empty list")
        return found | dict.fromkeys(np.flatnonzero(self.null).tolist(), null)
