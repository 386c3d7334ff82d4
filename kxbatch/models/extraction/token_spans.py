"""Spans on tokens, of all rows of a batch, as flat columns.

S counts spans. A span is tokens `start` to `end`, end exclusive, and a type's number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Numbers = NDArray[np.int32]


@dataclass(frozen=True)
class TokenSpans:
    """Spans, sorted by row, start, end and type; made by `of`.

    Attributes:
        rows: row of the batch, int32 [S].
        starts: first token, int32 [S].
        ends: token after the last, int32 [S].
        types: number of the type, int32 [S].
        scores: larger for what is surer, 0 is the border between yes and no, float32 [S].
    """

    rows: Numbers
    starts: Numbers
    ends: Numbers
    types: Numbers
    scores: NDArray[np.float32]

    @classmethod
    def of(
        cls, rows: ArrayLike, starts: ArrayLike, ends: ArrayLike, types: ArrayLike, scores: ArrayLike | None = None
    ) -> TokenSpans:
        """Spans in any order; without scores, as of gold spans, all are 0."""
        row, start, end, kind = (np.asarray(column).astype(np.int32) for column in (rows, starts, ends, types))
        score = np.zeros(len(row), np.float32) if scores is None else np.asarray(scores).astype(np.float32)
        return cls(row, start, end, kind, score).take(np.lexsort((kind, end, start, row)))

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> TokenSpans:
        """Those at the places given, in that order, or those marked."""
        found = (self.rows[chosen], self.starts[chosen], self.ends[chosen], self.types[chosen])
        return TokenSpans(*found, scores=self.scores[chosen])

    def gold(self, device: torch.device | str = "cpu") -> Tensor:
        """What the losses want: int64 [S, 4] of row, type, start, end (exclusive)."""
        columns = np.stack([self.rows, self.types, self.starts, self.ends], axis=1)
        return torch.from_numpy(columns.astype(np.int64)).to(device)
