"""What a beam search wants of a model: scores of a few next tokens, for many hypotheses at once.

Letters: Q questions, W hypotheses of each, A (row, token) pairs, R rows, V vocabulary. A row is a hypothesis: q W + w.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from kxbatch.kernels.trie import Keys
from kxbatch.kernels.trie.keys import starts_of

Numbers = NDArray[np.int64]


class Decoding(Protocol):
    """Some questions under way. All rows have said equally many tokens."""

    def logits(self, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
        """Float32 [A]: what the model gives to tokens [A], each as the next one of a row [A]; rows do not fall."""

    def all_logits(self) -> Tensor:
        """Float32 [rows, V], on the CPU: for decoding without a trie."""

    def log_normalizers(self, rows: Numbers) -> NDArray[np.float64]:
        """Float64 [R]: log-sum-exp of the logits of rows [R] over the vocabulary."""

    def advance(self, parents: Numbers, tokens: Numbers) -> None:
        """Goes on to other rows.

        Args:
            parents: int64 [Q', W'], the present row that each of the new ones goes on from. Those of one line come from
                one question, and no question has two lines; questions without a line are done with.
            tokens: int64 [Q', W'], what each says next.
        """


class Generator(Protocol):
    """A model that goes on from a source, token by token."""

    @property
    def vocabulary(self) -> int:
        """V, at least that of the trie."""

    def begin(self, sources: Keys) -> Decoding:
        """Reads Q sources, question and separator each; the rows are one a question, and have said nothing."""


def go_on(decoding: Decoding, questions: Numbers, rows: Numbers, tokens: Numbers) -> Numbers:
    """Lets some hypotheses say a token each.

    The rows of a decoding are a rectangle, so lines are filled up with copies of their first hypothesis.

    Args:
        decoding: is advanced.
        questions: int64 [H], rising.
        rows: int64 [H], where each goes on from.
        tokens: int64 [H].

    Returns:
        int64 [H], the new row of each.
    """
    _, line, size = np.unique(questions, return_inverse=True, return_counts=True)
    begin = starts_of(size)[:-1]
    place = np.arange(len(rows)) - begin[line]
    parents, said = (np.repeat(x[begin, None], size.max(), axis=1) for x in (rows, tokens))
    parents[line, place], said[line, place] = rows, tokens
    decoding.advance(parents, said)
    new: Numbers = line * size.max() + place
    return new
