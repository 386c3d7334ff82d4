"""Look-ahead: how much of the question each next token can still lead to, over all completions of the part being said.

Su, "Seq2Seq + prefix tree: a paradigm for retrieval, with KgCLUE" (2021): a candidate token c after P_<t gets
`p(c)^(1 / (D(c) + 1))` with

    D(c) = max over completions P^(c) through c of LCS(P^(c), Q) - LCS(P_<t, Q).

Completions run up to the next separator or the end of a key, so what comes after (10^5 meanings of one subject and predicate,
say) costs nothing. A longest common subsequence never gets shorter as a text goes on, hence the maximum over completions is
that over all nodes below, and the ends of keys need not be asked for.

Letters: R roots, N nodes of all trees, Q questions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.lcs import Matches
from kxbatch.kernels.trie.automaton import Automaton

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees of completions, their nodes numbered breadth-first: the first R are the roots.

    Attributes:
        first: int64 [N + 1]; the children of node n are the nodes `first[n]` to `first[n + 1]`, in the order in which
            `Automaton.allowed` gives them. A separator is a child, and has none.
        gain: int64 [N], the D of each node, as a candidate after its parent; 0 for roots.
        complete: bool [R], whether the tree was small enough to be looked through; if not, it means nothing.
    """

    first: Numbers
    gain: Numbers
    complete: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class _Level:
    """Nodes of one depth: the parent of each (a place in the level before), its children, its LCS with the question."""

    parent: Numbers
    children: Numbers
    lcs: Numbers


def completion_forest(
    trie: Automaton, states: Numbers, question_of: Numbers, matches: Matches, separator: int, limit: int
) -> Forest:
    """Looks through everything that can complete the part of a key.

    Args:
        trie: of the keys.
        states: int64 [R, W], at the beginning of a part.
        question_of: int64 [R], the question asked at each.
        matches: of Q questions, without separators.
        separator: the token that ends a part.
        limit: trees of more nodes, their root not counted, are given up.
    """
    tree, size, complete = np.arange(len(states)), np.zeros(len(states), np.int64), np.ones(len(states), bool)
    rows, nothing = matches.start(len(states)), np.zeros(len(states), np.int64)
    levels = [_Level(nothing, nothing.copy(), nothing)]
    open_ = np.arange(len(states))
    while len(open_):
        allowed = trie.allowed(states)
        grown = size + np.bincount(tree, np.diff(allowed.offsets), len(size)).astype(np.int64)
        if (grown[tree] > limit).any():
            complete &= grown <= limit
            kept = complete[tree]
            open_, states, rows, tree = open_[kept], states[kept], rows[kept], tree[kept]
            continue
        size, count = grown, np.diff(allowed.offsets)
        tokens = np.where(allowed.tokens == separator, -1, allowed.tokens)
        rows, lcs = matches.descend(rows, question_of[tree], tokens, allowed.offsets)
        levels[-1].children[open_] = count
        levels.append(_Level(np.repeat(open_, count), np.zeros(len(tokens), np.int64), lcs))
        open_ = np.flatnonzero(tokens >= 0)
        states, rows, tree = allowed.states[open_], rows[open_], np.repeat(tree, count)[open_]
    return _number(levels, complete)


def _number(levels: list[_Level], complete: NDArray[np.bool_]) -> Forest:
    """Numbers the nodes, and carries what leaves reach up to the root."""
    best, gains = levels[-1].lcs, []
    for above, level in zip(levels[-2::-1], levels[:0:-1], strict=True):
        gains.append(best - above.lcs[level.parent])
        reached = above.lcs.copy()
        np.maximum.at(reached, level.parent, best)
        best = reached
    gains.append(np.zeros(len(complete), np.int64))
    children = np.concatenate([level.children for level in levels])
    first = np.full(len(children) + 1, len(complete), np.int64)
    first[1:] += np.cumsum(children)
    return Forest(first, np.concatenate(gains[::-1]), complete)
