"""The compiled part of the trie: filling its arrays, and steps of many states at once.

Layout. A node is a distinct prefix; it is *inner* if two keys or more share it (and the root always is), else a *leaf*, and
what follows a leaf is the *tail* of its only key: a plain run of tokens, most of the trie. Positions number all nodes but
the root in breadth-first order, siblings by token; ranks number the inner nodes in the same order, from the root, 0. The
children of the inner node of rank r are the positions `first[r]` to `first[r + 1]`, and the rank of an inner child is one
more than the number of inner nodes before its position: a bitmap with counts (Jacobson 1989) tells it, so that neither next
states nor parents are stored.

Key numbers are rows of the sorted keys, so the keys below a node are a range, `low` to `low + count`. It is not stored:
the ranges of siblings follow each other, so `low` of a child is that of its parent, plus one for a key that ends at the
parent, plus the sizes of the siblings before: one for a leaf, a difference of `below` for inner ones. This is why a state
carries `low` along: a state is (at, low), with `at` the rank of an inner node, or the number of inner nodes plus the place
of the next token among the tails; (-1, -1) is nowhere.

Deleted keys are a sorted list of numbers. What has no key left below is not entered.

One file, so that numba's cache notices a change in any of them. Letters: B states, A allowed tokens of all of them, N
positions, I inner nodes, K keys, V vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

Tokens = NDArray[np.unsignedinteger[Any]]
Numbers = NDArray[np.int64]
Pointers = NDArray[np.uint32]
Words = NDArray[np.uint64]
Integer = Any  # of any width in compiled code

RUN = 64  # tails that share a base offset
LOW_32 = 2**32 - 1
ODD_BITS, PAIRS, NIBBLES = (np.uint64(x) for x in (0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F))
BYTES = np.uint64(0x0101010101010101)


class Arrays(NamedTuple):
    """What a trie is made of.

    Attributes:
        token: uint16 or uint32 [N], the last token of each node.
        inner: uint64 [N // 64 + 1], bit n: whether node n is inner.
        inner_before: uint32 [N // 64 + 1], inner nodes before each word, without the root.
        first: uint32 [I + 1], where the children of each inner node begin.
        below: uint32 [I + 1], keys below the inner nodes before, modulo 2^32.
        terminal: uint64 [I // 64 + 1], bit r: whether a key ends at inner node r.
        root: uint32 [V + 1], children of the root with a smaller token.
        tail: type of `token` [S], the tails in the order of the keys.
        tail_base: int64 [K // 64 + 1], where the tail of every 64th key begins.
        tail_offset: uint16 or uint32 [K + 1], where each tail begins, from its base.
    """

    token: Tokens
    inner: Words
    inner_before: Pointers
    first: Pointers
    below: Pointers
    terminal: Words
    root: Pointers
    tail: Tokens
    tail_base: Numbers
    tail_offset: Tokens


@jit
def measure(starts: Numbers, shared: Pointers, nodes: Numbers, inners: Numbers, lengths: Numbers) -> None:
    """Sizes of the parts of a trie.

    Args:
        starts: `[K + 1]`, of sorted keys.
        shared: `[K + 1]`, tokens each key shares with the one before.
        nodes: `[depths]`, receives the nodes of each depth.
        inners: `[depths]`, receives the inner nodes of each depth.
        lengths: `[K]`, receives the lengths of the tails.
    """
    for i in range(lengths.shape[0]):
        length = starts[i + 1] - starts[i]
        before, after = np.int64(shared[i]), np.int64(shared[i + 1])
        last = min(length, max(before, after) + 1)
        lengths[i] = length - last
        for d in range(before + 1, last + 1):
            nodes[d] += 1
            inners[d] += d <= after


@jit
def fill(
    tokens: Tokens,
    starts: Numbers,
    shared: Pointers,
    position: Numbers,
    rank: Numbers,
    counts: Numbers,
    out: Arrays,
) -> None:
    """Fills the arrays of the nodes, and the tails, in one pass over the keys: breadth-first order by a cursor per depth.

    Args:
        tokens: of the keys.
        starts: `[K + 1]`.
        shared: `[K + 1]`, tokens each key shares with the one before.
        position: `[depths + 1]`, where the nodes of each depth begin; used up.
        rank: `[depths + 1]`, where the inner nodes of each depth begin; used up.
        counts: `[I]`, receives the number of keys below each.
        out: whose `token`, `inner`, `first`, `terminal` and `tail` are written; zeros before.
    """
    depths, tails = position.shape[0], 0
    opened, since = np.zeros(depths, np.int64), np.zeros(depths, np.int64)
    keys = starts.shape[0] - 1
    for i in range(keys):
        length = starts[i + 1] - starts[i]
        before, after = np.int64(shared[i]), np.int64(shared[i + 1])
        last = min(length, max(before, after) + 1)
        for d in range(before + 1, last + 1):
            n = position[d]
            position[d] += 1
            out.token[n] = tokens[starts[i] + d - 1]
            if d <= after:
                out.inner[n >> 6] |= np.uint64(1) << np.uint64(n & 63)
                out.first[rank[d]] = position[d + 1]
                opened[d], since[d] = rank[d], i
                rank[d] += 1
        if last <= after or length == 0:
            r = opened[last]
            out.terminal[r >> 6] |= np.uint64(1) << np.uint64(r & 63)
        for p in range(starts[i] + last, starts[i + 1]):
            out.tail[tails] = tokens[p]
            tails += 1
        for d in range(after + 1, before + 1):
            counts[opened[d]] = i + 1 - since[d]
    counts[0] = keys


@jit
def ones(word: np.uint64) -> Integer:
    """Number of set bits (Wegner 1960; the halving form of Warren 2002)."""
    word -= (word >> np.uint64(1)) & ODD_BITS
    word = (word & PAIRS) + ((word >> np.uint64(2)) & PAIRS)
    word = (word + (word >> np.uint64(4))) & NIBBLES
    return np.int64((word * BYTES) >> np.uint64(56))


@jit
def is_set(words: Words, n: Integer) -> Integer:
    """Bit n."""
    return (words[n >> 6] >> np.uint64(n & 63)) & np.uint64(1) != 0


@jit
def rank_at(t: Arrays, n: Integer) -> Integer:
    """The rank of the first inner node at position n or behind."""
    mask = (np.uint64(1) << np.uint64(n & 63)) - np.uint64(1)
    return 1 + np.int64(t.inner_before[n >> 6]) + ones(t.inner[n >> 6] & mask)


@jit
def keys_between(t: Arrays, r: Integer, s: Integer) -> Integer:
    """Keys below the inner nodes r to s, fewer than 2^32."""
    return (np.int64(t.below[s]) - np.int64(t.below[r])) & LOW_32


@jit
def tail_start(t: Arrays, key: Integer) -> Integer:
    """Where the tail of a key begins."""
    return t.tail_base[key // RUN] + np.int64(t.tail_offset[key])


@jit
def alive(deleted: Numbers, low: Integer, count: Integer) -> Integer:
    """How many of the keys `low` to `low + count` are not deleted."""
    if deleted.shape[0] == 0:
        return count
    return count - (np.searchsorted(deleted, low + count) - np.searchsorted(deleted, low))


@jit
def size(t: Arrays, at: Integer) -> Integer:
    """Keys below a state, deleted ones included."""
    inners = t.first.shape[0] - 1
    return keys_between(t, at, at + 1) if 0 <= at < inners else np.int64(at >= inners)


@jit
def low_of_child(t: Arrays, r: Integer, low: Integer, n: Integer) -> Integer:
    """The first key below the child at position n of the inner node r, whose own first key is `low`."""
    begin = np.int64(t.first[r])
    s, e = rank_at(t, begin), rank_at(t, n)
    return low + np.int64(is_set(t.terminal, r)) + (n - begin) - (e - s) + keys_between(t, s, e)


@jit
def ends(t: Arrays, deleted: Numbers, at: Integer, low: Integer) -> Integer:
    """Whether a key that is not deleted ends at a state."""
    inners = t.first.shape[0] - 1
    if at < inners:
        return at >= 0 and is_set(t.terminal, at) and alive(deleted, low, 1) == 1
    return at - inners == tail_start(t, low + 1)


@jit
def allowed(t: Arrays, deleted: Numbers, states: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    """What may follow each state.

    Args:
        t: the trie.
        deleted: `[D]`, sorted key numbers.
        states: `[B, 2]`.

    Returns:
        Tokens [A], rising within a state; offsets [B + 1] into them; the states [A, 2] they lead to.
    """
    inners, room = t.first.shape[0] - 1, np.int64(0)
    for b in range(states.shape[0]):
        at = states[b, 0]
        room += np.int64(t.first[at + 1]) - np.int64(t.first[at]) if 0 <= at < inners else 1
    tokens, after, offsets = (
        np.empty(room, np.int64),
        np.empty((room, 2), np.int64),
        np.zeros(len(states) + 1, np.int64),
    )
    a = 0
    for b in range(states.shape[0]):
        at, low = states[b, 0], states[b, 1]
        if at >= inners and at - inners < tail_start(t, low + 1):
            tokens[a], after[a, 0], after[a, 1] = t.tail[at - inners], at + 1, low
            a += 1
        elif 0 <= at < inners:
            n, end = np.int64(t.first[at]), np.int64(t.first[at + 1])
            r = rank_at(t, n)
            low += is_set(t.terminal, at)
            for c in range(n, end):
                inside = is_set(t.inner, c)
                count = keys_between(t, r, r + 1) if inside else 1
                if alive(deleted, low, count):
                    tokens[a], after[a, 1] = t.token[c], low
                    after[a, 0] = r if inside else inners + tail_start(t, low)
                    a += 1
                low += count
                r += inside
        offsets[b + 1] = a
    return tokens[:a], offsets, after[:a]


@jit
def child(t: Arrays, r: Integer, token: Integer) -> Integer:
    """The position of the child of an inner node with this token, -1 if there is none."""
    if r == 0:
        if not 0 <= token < t.root.shape[0] - 1 or t.root[token] == t.root[token + 1]:
            return -1
        return np.int64(t.root[token])
    lo, hi = np.int64(t.first[r]), np.int64(t.first[r + 1])
    end = hi
    while lo < hi:
        middle = (lo + hi) // 2
        if np.int64(t.token[middle]) < token:
            lo = middle + 1
        else:
            hi = middle
    return lo if lo < end and np.int64(t.token[lo]) == token else -1


@jit
def advance(t: Arrays, deleted: Numbers, states: Numbers, tokens: Numbers) -> Numbers:
    """The states [B, 2] that tokens [B] lead to."""
    inners = t.first.shape[0] - 1
    after = np.full(states.shape, -1, np.int64)
    for b in range(states.shape[0]):
        at, low = states[b, 0], states[b, 1]
        if at >= inners:
            if at - inners < tail_start(t, low + 1) and np.int64(t.tail[at - inners]) == tokens[b]:
                after[b, 0], after[b, 1] = at + 1, low
        elif at >= 0:
            n = child(t, at, tokens[b])
            if n < 0:
                continue
            low, inside, r = low_of_child(t, at, low, n), is_set(t.inner, n), rank_at(t, n)
            if alive(deleted, low, keys_between(t, r, r + 1) if inside else 1):
                after[b, 0], after[b, 1] = r if inside else inners + tail_start(t, low), low
    return after


@jit
def terminal(t: Arrays, deleted: Numbers, states: Numbers) -> Numbers:
    """The number of the key that ends at each state [B], -1 where none does."""
    numbers = np.full(states.shape[0], -1, np.int64)
    for b in range(states.shape[0]):
        if ends(t, deleted, states[b, 0], states[b, 1]):
            numbers[b] = states[b, 1]
    return numbers


@jit
def count(t: Arrays, deleted: Numbers, states: Numbers) -> Numbers:
    """Keys below each state [B], the one that ends there included."""
    counts = np.empty(states.shape[0], np.int64)
    for b in range(states.shape[0]):
        counts[b] = alive(deleted, states[b, 1], size(t, states[b, 0]))
    return counts


@jit
def numbers_below(t: Arrays, deleted: Numbers, states: Numbers, limit: Integer) -> tuple[Numbers, Numbers]:
    """The first keys below each state.

    Returns:
        Key numbers, up to `limit` a state, rising, and offsets [B + 1] into them.
    """
    offsets = np.zeros(len(states) + 1, np.int64)
    for b in range(states.shape[0]):
        offsets[b + 1] = offsets[b] + min(limit, alive(deleted, states[b, 1], size(t, states[b, 0])))
    numbers = np.empty(offsets[-1], np.int64)
    for b in range(states.shape[0]):
        key, gone = states[b, 1], np.searchsorted(deleted, states[b, 1])
        for a in range(offsets[b], offsets[b + 1]):
            while gone < deleted.shape[0] and deleted[gone] == key:
                gone += 1
                key += 1
            numbers[a] = key
            key += 1
    return numbers, offsets


@jit
def room_for(out: Tokens, used: Integer, more: Integer) -> Tokens:
    """An array with room for more entries behind those used: itself, or a longer copy."""
    if used + more <= out.shape[0]:
        return out
    longer = np.empty(2 * (used + more), out.dtype)
    longer[:used] = out[:used]
    return longer


@jit
def spell(t: Arrays, states: Numbers, numbers: Numbers) -> tuple[Tokens, Numbers]:
    """The tokens that lead from each state [B, 2] to the end of one key below it.

    Args:
        t: the trie.
        states: `[B, 2]`.
        numbers: `[B]`, of keys below the states.

    Returns:
        The tokens, in the type of the trie, and starts [B + 1] into them.
    """
    inners, used = t.first.shape[0] - 1, 0
    starts = np.zeros(len(states) + 1, np.int64)
    out: Tokens = np.empty(16 * len(states), t.token.dtype)
    for b in range(states.shape[0]):
        at, low, key = states[b, 0], states[b, 1], numbers[b]
        while at < inners and not (low == key and is_set(t.terminal, at)):
            n, hi = np.int64(t.first[at]), np.int64(t.first[at + 1])
            while n + 1 < hi:  # the last child that begins at the key or before
                middle = (n + hi) // 2
                if low_of_child(t, at, low, middle) <= key:
                    n = middle
                else:
                    hi = middle
            out = room_for(out, used, 1)
            out[used] = t.token[n]
            used += 1
            low = low_of_child(t, at, low, n)
            at = rank_at(t, n) if is_set(t.inner, n) else inners + tail_start(t, low)
        if at >= inners:
            begin, end = at - inners, tail_start(t, key + 1)
            out = room_for(out, used, end - begin)
            for p in range(begin, end):
                out[used] = t.tail[p]
                used += 1
        starts[b + 1] = used
    return out[:used], starts


@jit
def unite(
    tokens: Numbers, offsets: Numbers, after: Numbers, tokens_2: Numbers, offsets_2: Numbers, after_2: Numbers
) -> tuple[Numbers, Numbers, Numbers]:
    """The union of what two tries allow: rising tokens [A], offsets [B + 1] and pairs of states [A, 4]."""
    room = tokens.shape[0] + tokens_2.shape[0]
    united, both, spans = np.empty(room, np.int64), np.full((room, 4), -1, np.int64), np.zeros(len(offsets), np.int64)
    a = 0
    for b in range(offsets.shape[0] - 1):
        i, j, end, end_2 = offsets[b], offsets_2[b], offsets[b + 1], offsets_2[b + 1]
        while i < end or j < end_2:
            first = i < end and (j == end_2 or tokens[i] <= tokens_2[j])
            second = j < end_2 and (i == end or tokens_2[j] <= tokens[i])
            if first:
                united[a], both[a, 0], both[a, 1] = tokens[i], after[i, 0], after[i, 1]
            if second:
                united[a], both[a, 2], both[a, 3] = tokens_2[j], after_2[j, 0], after_2[j, 1]
            i += first
            j += second
            a += 1
        spans[b + 1] = a
    return united[:a], spans, both[:a]
