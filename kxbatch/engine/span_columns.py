"""Columns of spans for an evaluation: a span that cannot be right is refused, with its row, its column and its file.

Letters: N rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.span_columns import FlatSpans, faults
from kxbatch.errors import DataError


def joined(parts: Sequence[FlatSpans], firsts: Sequence[int]) -> FlatSpans:
    """The spans of several parts; the rows of each are counted from a number on."""
    return FlatSpans(
        np.concatenate([part.rows + first for part, first in zip(parts, firsts, strict=True)]),
        np.concatenate([part.starts for part in parts]),
        np.concatenate([part.ends for part in parts]),
        pa.concat_arrays([part.types for part in parts]),
        np.concatenate([part.scores for part in parts]),
    )


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a file, with words for what is wrong in one of them.

    Attributes:
        file: where they are.
        ids: [N]; None where they have none.
        texts: large_string [N].
    """

    file: str
    ids: pa.Array | None
    texts: pa.LargeStringArray

    def words(self, row: int, column: str) -> str:
        """A place, for people."""
        name = f"row {row}" if self.ids is None else f"row with id {self.ids[row].as_py()!r}"
        return f"{self.file}: {name}, column {column!r}"

    def spans(self, name: str, column: pa.Array, *, scored: bool = False) -> FlatSpans:
        """The spans of a column.

        Args:
            name: of the column.
            column: [N], see `FlatSpans.read`.
            scored: whether their scores are wanted.

        Raises:
            DataError: it holds something else, or a span cannot be right; names the first.
        """
        try:
            spans = FlatSpans.read(column, name, scored=scored)
        except DataError as error:
            raise DataError(f"{self.file}: {error}") from None
        found = faults(spans, pc.utf8_length(self.texts).to_numpy(zero_copy_only=False))
        if found:
            row = min(found)
            raise DataError(f"{self.words(row, name)}: {found[row].words}")
        return spans
