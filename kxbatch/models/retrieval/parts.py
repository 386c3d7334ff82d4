"""The parts that may come next in a trie whose keys are parts with a separator between them.

A part that is not the last one is listed without what comes after it: the walk stops at its separator, so that a
hundred thousand keys behind one part cost what one costs.

Letters: B states of W integers, N parts below all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.trie import Automaton, Keys, sort_keys, token_dtype
from kxbatch.kernels.trie.keys import starts_of

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Parts:
    """Parts below some states: those of a state together, in the order of their tokens.

    Attributes:
        texts: N token sequences, without separators.
        state_of: int64 [N], rising: the state each lies below.
        after: int64 [N, W], the state after the part and its separator; of last parts int64 [N], the number of the key.
    """

    texts: Keys
    state_of: Numbers
    after: Numbers


@dataclass(frozen=True, eq=False)
class _Step:
    """One step of the walk: which walk each one goes on from, and with which token."""

    parents: Numbers
    tokens: Numbers


def inner_parts(trie: Automaton, states: Numbers, separator: int) -> Parts:
    """The parts below states [B, W] that a separator ends.

    Args:
        trie: of keys that are parts with separators between them.
        states: where parts begin.
        separator: a token that no part holds.
    """
    steps: list[_Step] = []
    rows, alive = np.arange(len(states)), states
    texts, state_of, after = [np.empty((0, 0), np.int64)], [rows[:0]], [states[:0]]
    while len(alive):
        allowed = trie.allowed(alive)
        parents = np.repeat(np.arange(len(alive)), np.diff(allowed.offsets))
        ended = allowed.tokens == separator
        texts.append(_spelt(steps, parents[ended]))
        state_of.append(rows[parents[ended]])
        after.append(allowed.states[ended])
        steps.append(_Step(parents[~ended], allowed.tokens[~ended]))
        rows, alive = rows[parents[~ended]], allowed.states[~ended]
    return _in_order(_joined(texts, trie.vocabulary), np.concatenate(state_of), np.concatenate(after))


def last_parts(trie: Automaton, states: Numbers) -> Parts:
    """The parts below states [B, W] with which keys end."""
    found = trie.completions(states, int(trie.count(states).max(initial=0)))
    return _in_order(found.keys, np.repeat(np.arange(len(states)), np.diff(found.offsets)), found.numbers)


def _spelt(steps: Sequence[_Step], walks: Numbers) -> Numbers:
    """The tokens of some walks, a row each."""
    tokens = np.empty((len(walks), len(steps)), np.int64)
    for depth in reversed(range(len(steps))):
        tokens[:, depth] = steps[depth].tokens[walks]
        walks = steps[depth].parents[walks]
    return tokens


def _joined(texts: Sequence[Numbers], vocabulary: int) -> Keys:
    """Blocks of texts of one length each as one list."""
    lengths = np.concatenate([np.full(len(block), block.shape[1]) for block in texts])
    tokens = np.concatenate([block.ravel() for block in texts])
    return Keys(tokens.astype(token_dtype(vocabulary)), starts_of(lengths))


def _in_order(texts: Keys, state_of: Numbers, after: Numbers) -> Parts:
    order = np.lexsort((sort_keys(texts)[1], state_of))
    return Parts(texts.take(order), state_of[order], after[order])
