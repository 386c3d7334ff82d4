"""What tries with and without an overlay have in common, and what is written once for both.

Letters: B states, W integers of a state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.trie.keys import Keys
from kxbatch.kernels.trie.trie import Allowed, Completions

Numbers = NDArray[np.int64]


class Automaton(Protocol):
    """Steps of many states at once; see `Trie` for what each call promises."""

    def __len__(self) -> int:
        """Number of keys."""

    @property
    def vocabulary(self) -> int:
        """Tokens are 0 to this, exclusive."""

    def start(self, rows: int) -> Numbers:
        """States [rows, W] in which nothing has been said."""

    def allowed(self, states: Numbers) -> Allowed:
        """What may follow states [B, W]."""

    def advance(self, states: Numbers, tokens: Numbers) -> Numbers:
        """The states that tokens [B] lead to, rows of -1 where no key goes on like this."""

    def terminal(self, states: Numbers) -> Numbers:
        """The number of the key that ends at each state, or -1."""

    def count(self, states: Numbers) -> Numbers:
        """Keys below each state."""

    def completions(self, states: Numbers, limit: int) -> Completions:
        """Keys below each state, at most `limit` each."""

    def keys(self, numbers: Numbers) -> Keys:
        """The keys of some numbers, in that order."""


@dataclass(frozen=True, eq=False)
class Prefixes:
    """How far sequences follow a trie.

    Attributes:
        depth: int64 [B], tokens of the sequence that begin some key.
        states: int64 [B, W], the state after them.
        length: int64 [B], tokens of the longest key that the sequence begins with; -1 if there is none.
        number: int64 [B], the number of that key, or -1.
    """

    depth: Numbers
    states: Numbers
    length: Numbers
    number: Numbers


def longest_prefix(trie: Automaton, sequences: Keys) -> Prefixes:
    """Follows B sequences, in any order, from the start for as long as keys go on like them."""
    size = len(sequences)
    states, depth = trie.start(size), np.zeros(size, np.int64)
    number = trie.terminal(states)
    length = np.where(number >= 0, 0, -1)
    going, step, lengths = np.arange(size), 0, sequences.lengths
    while len(going := going[lengths[going] > step]):
        after = trie.advance(states[going], sequences.tokens[sequences.starts[going] + step].astype(np.int64))
        there = after.max(axis=1) >= 0
        going, after, step = going[there], after[there], step + 1
        states[going], depth[going] = after, step
        ended = trie.terminal(after)
        length[going[ended >= 0]], number[going[ended >= 0]] = step, ended[ended >= 0]
    return Prefixes(depth, states, length, number)


def find(trie: Automaton, keys: Keys) -> Numbers:
    """int64 [B]: the numbers of keys, in any order; -1 for those that are not there."""
    found = longest_prefix(trie, keys)
    return np.where(found.length == keys.lengths, found.number, -1)
