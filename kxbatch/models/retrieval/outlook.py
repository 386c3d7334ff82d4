"""The trees of completions that the hypotheses of a beam stand in.

A hypothesis that begins a part gets a tree, and from then on carries the number of a node. Trees that were made in one step are
one forest; the forests lie behind each other in two arrays, and leave when no hypothesis is in them any more.

Letters: H hypotheses, A candidates of all of them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.lcs import Matches
from kxbatch.kernels.trie import Automaton, Keys
from kxbatch.kernels.trie.look_ahead import completion_forest

Numbers = NDArray[np.int64]


class Outlook:
    """Look-ahead for some questions."""

    def __init__(self, trie: Automaton, questions: Keys, separator: int, limit: int) -> None:
        self._trie, self._matches = trie, Matches.of(questions)
        self._separator, self._limit = separator, limit
        self._first, self._gain = np.zeros(1, np.int64), np.empty(0, np.int64)
        self._ends: list[int] = []
        self.given_up = np.zeros(len(questions), np.int64)

    def gains(self, nodes: Numbers, of_candidate: Numbers, child: Numbers) -> Numbers:
        """The D of candidates, int64 [A].

        Args:
            nodes: int64 [H], of the hypotheses; -1 for none.
            of_candidate: int64 [A], the hypothesis of each.
            child: int64 [A], which of the children it is; -1 for the end of a key, from which nothing can be gained.
        """
        inside = (nodes[of_candidate] >= 0) & (child >= 0)
        gains = np.zeros(len(child), np.int64)
        gains[inside] = self._gain[self.children(nodes[of_candidate[inside]], child[inside])]
        return gains

    def children(self, nodes: Numbers, child: Numbers) -> Numbers:
        """The nodes of some children of some nodes."""
        found: Numbers = self._first[nodes] + child
        return found

    def enter(self, nodes: Numbers, states: Numbers, questions: Numbers, entering: NDArray[np.bool_]) -> Numbers:
        """Makes trees for the hypotheses that begin a part.

        Args:
            nodes: int64 [H].
            states: int64 [H, W].
            questions: int64 [H], the question of each.
            entering: bool [H].

        Returns:
            int64 [H], the nodes of all hypotheses from now on: forests may have left.
        """
        if not entering.any():
            return nodes
        nodes = self._leave(nodes)
        made = completion_forest(
            self._trie, states[entering], questions[entering], self._matches, self._separator, self._limit
        )
        size = len(self._gain)
        self._first = np.concatenate([self._first[:-1], made.first + size])
        self._gain = np.concatenate([self._gain, made.gain])
        self._ends.append(len(self._gain))
        np.add.at(self.given_up, questions[entering], ~made.complete)
        nodes[entering] = np.where(made.complete, size + np.arange(len(made.complete)), -1)
        return nodes

    def _leave(self, nodes: Numbers) -> Numbers:
        """Drops the forests that no hypothesis is in."""
        ends = np.array([0, *self._ends])
        forest = np.searchsorted(ends, nodes, side="right") - 1
        used = np.isin(np.arange(len(self._ends)), forest[nodes >= 0])
        sizes = np.diff(ends)
        shift = np.cumsum(np.where(used, 0, sizes))
        kept = np.repeat(used, sizes)
        self._gain = self._gain[kept]
        first = self._first[:-1][kept] - np.repeat(shift[used], sizes[used])
        self._first = np.append(first, len(first))
        self._ends = np.cumsum(sizes[used]).tolist()
        moved = nodes.copy()
        moved[nodes >= 0] -= shift[forest[nodes >= 0]]
        return moved
