"""A trie that does not change: built from sorted keys, carried as flat arrays, asked for many states at once.

Letters: B states, A allowed tokens of all of them, K keys, V vocabulary. How the arrays hang together: `compiled`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.trie import compiled
from kxbatch.kernels.trie.build import build_arrays
from kxbatch.kernels.trie.compiled import RUN, Arrays
from kxbatch.kernels.trie.keys import Keys, frozen

Numbers = NDArray[np.int64]

NONE: Numbers = frozen(np.empty(0, np.int64))


@dataclass(frozen=True, eq=False)
class Allowed:
    """What may follow each of B states.

    Attributes:
        tokens: int64 [A], rising within a state.
        offsets: int64 [B + 1]; state b may be followed by the tokens `offsets[b]` to `offsets[b + 1]`.
        states: int64 [A, W], the state each token leads to.
    """

    tokens: Numbers
    offsets: Numbers
    states: Numbers


@dataclass(frozen=True, eq=False)
class Completions:
    """Keys below each of B states.

    Attributes:
        keys: what is still to be said until the end of each key; may be nothing.
        offsets: int64 [B + 1]; below state b are the entries `offsets[b]` to `offsets[b + 1]`.
        numbers: int64, the number of each key.
    """

    keys: Keys
    offsets: Numbers
    numbers: Numbers


@dataclass(frozen=True, eq=False)
class Trie:
    """Sorted distinct keys as a trie. Key numbers are rows in the sorted order.

    States are int64 [B, 2], opaque but for this: a row of -1 is nowhere. Nothing is allowed there, and no key is below.

    Attributes:
        arrays: read-only, memory-mapped where they came so.
    """

    arrays: Arrays

    @classmethod
    def build(cls, keys: Keys, vocabulary: int) -> Trie:
        """Builds a trie; equal keys give equal bytes.

        Args:
            keys: sorted and distinct (`sort_keys`, `merge_keys`), fewer than 2^32 - 1; the empty key is one, too.
            vocabulary: V; tokens are 0 to V - 1. More than 65536 of them take four bytes each instead of two.

        Raises:
            DataError: keys are not sorted or not distinct, a token lies outside the vocabulary, or there are too many
                keys or nodes.
        """
        return cls(build_arrays(keys, vocabulary))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, for safetensors or `.npz`."""
        return dict(self.arrays._asdict())

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Trie:
        """The inverse of `to_arrays`; nothing is copied.

        Only names, types and lengths are looked at: opening costs nothing, whatever the size. A digest must vouch for
        what the arrays hold, for compiled code follows it unchecked.

        Raises:
            DataError: an array is missing, or has a type or a length that no trie has.
        """
        missing = [name for name in Arrays._fields if name not in arrays]
        if missing:
            raise DataError(f"a trie without its arrays {', '.join(missing)}: build it again")
        fields = Arrays(*(frozen(arrays[name]) for name in Arrays._fields))
        _refuse_misshapen(fields)
        return cls(fields)

    def __len__(self) -> int:
        return len(self.arrays.tail_offset) - 1

    @property
    def vocabulary(self) -> int:
        """V."""
        return len(self.arrays.root) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(x.nbytes for x in self.arrays)

    def start(self, rows: int) -> Numbers:
        """States [rows, 2] in which nothing has been said."""
        return np.zeros((rows, 2), np.int64)

    def allowed(self, states: Numbers) -> Allowed:
        """What may follow states [B, 2]; the end of a key is told by `terminal`."""
        return self.allowed_without(NONE, states)

    def advance(self, states: Numbers, tokens: Numbers) -> Numbers:
        """The states [B, 2] that tokens [B] lead to from states [B, 2]; -1 where no key goes on like this."""
        return self.advance_without(NONE, states, tokens)

    def terminal(self, states: Numbers) -> Numbers:
        """int64 [B]: the number of the key that ends at each of the states [B, 2], or -1."""
        return self.terminal_without(NONE, states)

    def count(self, states: Numbers) -> Numbers:
        """int64 [B]: keys below each of the states [B, 2], the one that ends there included."""
        return self.count_without(NONE, states)

    def completions(self, states: Numbers, limit: int) -> Completions:
        """The first keys below states [B, 2], at most `limit` each, by their numbers."""
        return self.completions_without(NONE, states, limit)

    def keys(self, numbers: Numbers) -> Keys:
        """The keys of some numbers, int64 [M], in that order.

        Raises:
            DataError: there is no key of such a number.
        """
        if len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self):
            raise DataError(f"key numbers {numbers.min()} to {numbers.max()}, the trie has 0 to {len(self) - 1}")
        return Keys(*compiled.spell(self.arrays, _states(self.start(len(numbers))), frozen(numbers, np.int64)))

    def allowed_without(self, deleted: Numbers, states: Numbers) -> Allowed:
        """`allowed` as if some keys were not there: sorted numbers, int64 [D]. States come from calls without them."""
        return Allowed(*compiled.allowed(self.arrays, deleted, _states(states)))

    def advance_without(self, deleted: Numbers, states: Numbers, tokens: Numbers) -> Numbers:
        """`advance` as if some keys were not there."""
        return compiled.advance(self.arrays, deleted, _states(states), frozen(tokens, np.int64))

    def terminal_without(self, deleted: Numbers, states: Numbers) -> Numbers:
        """`terminal` as if some keys were not there."""
        return compiled.terminal(self.arrays, deleted, _states(states))

    def count_without(self, deleted: Numbers, states: Numbers) -> Numbers:
        """`count` as if some keys were not there."""
        return compiled.count(self.arrays, deleted, _states(states))

    def completions_without(self, deleted: Numbers, states: Numbers, limit: int) -> Completions:
        """`completions` as if some keys were not there."""
        numbers, offsets = compiled.numbers_below(self.arrays, deleted, _states(states), limit)
        of_key = np.repeat(np.arange(len(states)), np.diff(offsets))
        keys = Keys(*compiled.spell(self.arrays, _states(states[of_key]), frozen(numbers)))
        return Completions(keys, offsets, numbers)


def _states(states: Numbers) -> Numbers:
    """States as the compiled code takes them."""
    return frozen(states, np.int64)


def _refuse_misshapen(t: Arrays) -> None:
    """Raises DataError where types or lengths contradict each other."""
    tokens, keys = t.token.dtype, len(t.tail_offset) - 1
    nodes, inners = len(t.token), len(t.first) - 1
    wanted = {
        "token": ((np.uint16, np.uint32), nodes),
        "inner": ((np.uint64,), nodes // 64 + 1),
        "inner_before": ((np.uint32,), nodes // 64 + 1),
        "first": ((np.uint32,), inners + 1),
        "below": ((np.uint32,), inners + 1),
        "terminal": ((np.uint64,), inners // 64 + 1),
        "root": ((np.uint32,), len(t.root)),
        "tail": ((tokens,), len(t.tail)),
        "tail_base": ((np.int64,), keys // RUN + 1),
        "tail_offset": ((np.uint16, np.uint32), keys + 1),
    }
    for name, (dtypes, length) in wanted.items():
        x = getattr(t, name)
        if x.shape != (length,) or x.dtype not in dtypes:
            raise DataError(f"array {name} of a trie is {x.dtype} {list(x.shape)}: damaged, build the trie again")
    some = inners >= 1 and keys >= 0 and len(t.root) >= 1
    if not some or (
        (t.first[-1], t.below[1], t.root[-1]) != (nodes, keys, t.first[1])
        or t.tail_base[-1] + int(t.tail_offset[-1]) != len(t.tail)
    ):
        raise DataError("the arrays of a trie contradict each other: damaged, build the trie again")
