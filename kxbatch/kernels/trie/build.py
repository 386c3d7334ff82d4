"""Sorted keys become the arrays of a trie: three passes over the keys, nothing sorted, no work per node in Python."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.trie.compiled import RUN, Arrays, fill, measure
from kxbatch.kernels.trie.keys import Keys, frozen, starts_of, token_dtype
from kxbatch.kernels.trie.sorting import share


def build_arrays(keys: Keys, vocabulary: int) -> Arrays:
    """See `Trie.build`."""
    _refuse_tokens(keys, vocabulary)
    if len(keys) >= 2**32 - 1:
        raise DataError(f"{len(keys)} keys in one trie, it numbers fewer than 2^32 - 1: split them")
    shared = np.zeros(len(keys) + 1, np.uint32)
    bad = share(keys.tokens, keys.starts, shared)
    if bad >= 0:
        raise DataError(
            f"key {bad}, {keys[bad].tolist()}, does not come after key {bad - 1}, {keys[bad - 1].tolist()}: "
            "a trie is built from sorted distinct keys, see sort_keys"
        )
    depths = int(shared.max()) + 2
    nodes, inners, lengths = (np.zeros(size, np.int64) for size in (depths, depths, len(keys)))
    measure(keys.starts, frozen(shared), nodes, inners, lengths)
    inners[0] = 1  # the root is inner, and has no position
    position, rank = starts_of(nodes), starts_of(inners)
    if position[-1] >= 2**32:
        raise DataError(f"{position[-1]} nodes in one trie, it numbers fewer than 2^32: split the keys")
    out = _empty(int(position[-1]), int(rank[-1]), lengths, vocabulary)
    counts = np.zeros(rank[-1], np.int64)
    fill(keys.tokens, keys.starts, frozen(shared), position, rank, counts, out)
    out.first[-1] = len(out.token)
    np.cumsum(counts, out=out.below[1:], dtype=np.uint32)
    np.cumsum(np.bitwise_count(out.inner[:-1]), out=out.inner_before[1:], dtype=np.uint32)
    at_root = out.token[: out.first[1]]
    out.root[:] = np.searchsorted(at_root, np.arange(vocabulary + 1))
    return Arrays(*(frozen(x) for x in out))


def _refuse_tokens(keys: Keys, vocabulary: int) -> None:
    """Raises DataError where a token lies outside the vocabulary."""
    tokens = keys.tokens[keys.starts[0] : keys.starts[-1]]
    if len(tokens) and tokens.max() >= vocabulary:
        at = keys.starts[0] + int(tokens.argmax())
        key = int(np.searchsorted(keys.starts, at, side="right")) - 1
        raise DataError(f"key {key} holds token {keys.tokens[at]}, the vocabulary allows 0 to {vocabulary - 1}")


def _empty(nodes: int, inners: int, lengths: NDArray[np.int64], vocabulary: int) -> Arrays:
    """Arrays of the right sizes, with what follows from the lengths of the tails filled in."""
    tails = starts_of(lengths)
    base = tails[::RUN].copy()
    offset = tails - np.repeat(base, RUN)[: len(tails)]
    tokens = token_dtype(vocabulary)

    def zeros(size: int, dtype: Any) -> NDArray[Any]:
        return np.zeros(size, dtype)

    return Arrays(
        token=zeros(nodes, tokens),
        inner=zeros(nodes // 64 + 1, np.uint64),
        inner_before=zeros(nodes // 64 + 1, np.uint32),
        first=zeros(inners + 1, np.uint32),
        below=zeros(inners + 1, np.uint32),
        terminal=zeros(inners // 64 + 1, np.uint64),
        root=zeros(vocabulary + 1, np.uint32),
        tail=zeros(int(tails[-1]), tokens),
        tail_base=base,
        tail_offset=offset.astype(np.uint16 if offset.max() < 2**16 else np.uint32),
    )
