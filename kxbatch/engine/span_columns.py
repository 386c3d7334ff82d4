"""A column of spans as flat arrays, checked: every span lies in its text.

Letters: N rows, S spans of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kxbatch.errors import DataError, nearest
from kxbatch.models.extraction.metrics import Numbers

Floats = NDArray[np.float64]
FIELDS = ("start", "end", "type")


@dataclass(frozen=True, eq=False)
class FlatSpans:
    """Spans of all rows, one after the other.

    Attributes:
        rows: int64 [S], ascending.
        starts: int64 [S], in code points.
        ends: int64 [S], exclusive.
        types: large_string [S].
        scores: float64 [S], NaN where there is none.
    """

    rows: Numbers
    starts: Numbers
    ends: Numbers
    types: pa.LargeStringArray
    scores: Floats

    @classmethod
    def joined(cls, parts: Sequence[FlatSpans], firsts: Sequence[int]) -> FlatSpans:
        """Those of several parts; the rows of each are counted from a number on."""
        return cls(
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

    def spans(self, name: str, column: pa.Array) -> FlatSpans:
        """The spans of a column.

        Args:
            name: of the column.
            column: [N], lists of structs with `start`, `end` (code points, exclusive), `type` and, if known, `score`.

        Raises:
            DataError: it is something else, or a span is none of its text; names the first.
        """
        fields = self._fields(name, column.type)
        rows = np.repeat(np.arange(len(column)), pc.list_value_length(column).to_numpy(zero_copy_only=False))
        values = pc.list_flatten(column)
        for field in FIELDS:
            at = pc.index(pc.is_null(pc.struct_field(values, field)), True).as_py()
            if at >= 0:
                raise DataError(f"{self.words(int(rows[at]), name)}: a span without {field}")
        kinds = {"start": pa.int64(), "end": pa.int64(), "type": pa.large_string(), "score": pa.float64()}
        read = {field: self._cast(name, field, values, kinds[field]) for field in kinds if field in fields}
        starts, ends = (read[field].to_numpy(zero_copy_only=False) for field in FIELDS[:2])
        scores = read["score"].to_numpy(zero_copy_only=False) if "score" in read else np.full(len(rows), np.nan)
        spans = FlatSpans(rows, starts, ends, read["type"], scores)
        self._refuse_outside(name, spans)
        return spans

    def _fields(self, name: str, kind: pa.DataType) -> list[str]:
        listed = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        found = [field.name for field in kind.value_type] if listed and pa.types.is_struct(kind.value_type) else []
        missing = [field for field in FIELDS if field not in found]
        if missing:
            near = nearest(missing[0], found)
            raise DataError(
                f"{self.file}: column {name!r} is {kind}; a list of structs with start, end and type is wanted{near}"
            )
        return found

    def _cast(self, name: str, field: str, values: pa.StructArray, kind: pa.DataType) -> pa.Array:
        column = pc.struct_field(values, field)
        try:
            return pc.cast(column, kind)
        except pa.ArrowException as error:
            raise DataError(
                f"{self.file}: column {name!r}: {field} is {column.type}, {kind} is wanted ({error})"
            ) from None

    def _refuse_outside(self, name: str, spans: FlatSpans) -> None:
        lengths = pc.utf8_length(self.texts).to_numpy(zero_copy_only=False)[spans.rows]
        inverted = spans.starts >= spans.ends
        wrong = np.flatnonzero(inverted | (spans.starts < 0) | (spans.ends > lengths))
        if not len(wrong):
            return
        at = int(wrong[0])
        why = "is empty or inverted" if inverted[at] else f"is not in its text of {lengths[at]} code points"
        raise DataError(
            f"{self.words(int(spans.rows[at]), name)}: span [{spans.starts[at]}, {spans.ends[at]}) "
            f"of type {spans.types[at].as_py()!r} {why}; offsets count code points from 0 on, the end is exclusive"
        )
