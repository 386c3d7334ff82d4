"""The hypotheses of all questions that are still being decoded.

Letters: Q questions under way, H hypotheses of all of them, W integers of a state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.trie import Automaton
from kxbatch.models.retrieval.settings import PARTS

Numbers = NDArray[np.int64]
_CHANGED = ("numbers", "lengths", "rows", "states", "nodes")  # where a hypothesis ends


@dataclass(frozen=True, eq=False)
class Beam:
    """Hypotheses, those of a question together and best first. A finished one stays, and competes with the others.

    Attributes:
        questions: int64 [H], the question of each, rising; all else is of the hypotheses, too.
        rows: int64 [H], its row in the model; -1 for finished ones.
        states: int64 [H, W], where it is in the trie; -1 for finished ones.
        numbers: int64 [H], of the key of finished ones; -1 for others.
        scores: float64 [H].
        part_scores: float64 [H, 3].
        part: int64 [H], the part that is being said.
        lengths: int64 [H], tokens said; of finished ones all that belong to it.
        nodes: int64 [H], in a tree of completions, or -1.
        tokens: int64 [H], said last.
        guided: int64 [H, 2], where it is in the trie of the keys that stay; -1 for those that are on the way to none.
    """

    questions: Numbers
    rows: Numbers
    states: Numbers
    numbers: Numbers
    scores: NDArray[np.float64]
    part_scores: NDArray[np.float64]
    part: Numbers
    lengths: Numbers
    nodes: Numbers
    tokens: Numbers
    guided: Numbers

    @classmethod
    def start(cls, trie: Automaton, guided: Numbers) -> Beam:
        """One hypothesis a question that has said nothing; `guided` [Q, 2] is where it begins."""
        size = len(guided)
        each, zero = np.arange(size), np.zeros(size, np.int64)
        nothing = np.full(size, -1)
        scores, part_scores = np.zeros(size), np.zeros((size, PARTS))
        return cls(each, each, trie.start(size), nothing, scores, part_scores, zero, zero, nothing, nothing, guided)

    @classmethod
    def join(cls, parts: Sequence[Beam]) -> Beam:
        """All hypotheses of some beams."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def live(self) -> NDArray[np.bool_]:
        """Bool [H]: which are not finished."""
        return self.numbers < 0

    def take(self, kept: NDArray[np.bool_]) -> Beam:
        """Some of them."""
        return Beam(*(getattr(self, field.name)[kept] for field in fields(self)))

    def finish(self, which: Numbers, numbers: Numbers, more: Numbers) -> Beam:
        """Ends some hypotheses.

        Args:
            which: int64 [F].
            numbers: int64 [F], their keys.
            more: int64 [F], how many tokens they still have to say.
        """
        changed = replace(self, **{name: getattr(self, name).copy() for name in _CHANGED})
        changed.numbers[which] = numbers
        changed.lengths[which] += more
        for x in (changed.rows, changed.states, changed.nodes):
            x[which] = -1
        return changed

    def ranks(self) -> Numbers:
        """Int64 [H]: the place of each among those of its question, from 0."""
        ranks: Numbers = np.arange(len(self)) - np.searchsorted(self.questions, self.questions)
        return ranks

    def kept(self, wanted: int) -> NDArray[np.bool_]:
        """Bool [H]: which are among the first `wanted` of their question, or stay in any case."""
        return (self.ranks() < wanted) | (self.guided[:, 0] >= 0)

    def decided(self, wanted: int) -> NDArray[np.bool_]:
        """Bool [H]: whether those of the question of each that are kept are finished.

        The first `wanted` are the best then: scores fall, and of equals the earlier goes first.
        """
        pending = self.live & self.kept(wanted)
        return ~np.isin(self.questions, self.questions[pending])
