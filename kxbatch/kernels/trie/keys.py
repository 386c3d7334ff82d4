"""Keys: token sequences in flat arrays, and how millions of them are sorted, made distinct and merged.

The order is that of the tokens, a key before the keys it is a prefix of. Sorted distinct keys are a canonical form: however
rows were cut into shards, `merge_keys` over the `sort_keys` of the shards gives the same bytes.

Letters: N keys, T tokens of all keys together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.trie.sorting import number_pair, number_rows, place, sort_rows, take

Tokens = NDArray[np.unsignedinteger[Any]]
Offsets = NDArray[np.int64]


def token_dtype(vocabulary: int) -> np.dtype[np.unsignedinteger[Any]]:
    """uint16 where it holds the tokens 0 to `vocabulary - 1`, else uint32."""
    return np.dtype(np.uint16 if vocabulary <= 2**16 else np.uint32)


def frozen(x: NDArray[Any], dtype: Any = None) -> NDArray[Any]:
    """A read-only, contiguous view of a plain array (no copy of a memory map), so that compiled code sees one type."""
    view = np.ascontiguousarray(x, dtype=dtype).view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class Keys:
    """Token sequences, key i being `tokens[starts[i] : starts[i + 1]]`.

    Arrays that are memory-mapped stay so. A range of sorted keys is `Keys(keys.tokens, keys.starts[a : b + 1])`.

    Attributes:
        tokens: uint16 or uint32 [T].
        starts: int64 [N + 1], not falling.

    Raises:
        DataError: a type or a shape is another, or `starts` falls or leaves the tokens.
    """

    tokens: Tokens
    starts: Offsets

    def __post_init__(self) -> None:
        tokens, starts = self.tokens, self.starts
        if tokens.ndim != 1 or tokens.dtype not in (np.uint16, np.uint32):
            raise DataError(f"tokens of keys are uint16 or uint32 [T], got {tokens.dtype} {list(tokens.shape)}")
        if starts.ndim != 1 or starts.dtype != np.int64 or not len(starts):
            raise DataError(f"starts of keys are int64 [N + 1], got {starts.dtype} {list(starts.shape)}")
        if starts[0] < 0 or starts[-1] > len(tokens) or (starts[1:] < starts[:-1]).any():
            raise DataError(f"starts of keys rise from 0 to at most the {len(tokens)} tokens there are")
        object.__setattr__(self, "tokens", frozen(tokens))
        object.__setattr__(self, "starts", frozen(starts))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> Tokens:
        return self.tokens[self.starts[i] : self.starts[i + 1]]

    @property
    def lengths(self) -> Offsets:
        """int64 [N], tokens of each key."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, sequences: Iterable[Sequence[int]], vocabulary: int) -> Keys:
        """Keys out of Python sequences.

        Args:
            sequences: tokens from 0 to `vocabulary - 1`.
            vocabulary: number of tokens, which decides the type.

        Raises:
            DataError: a token lies outside the vocabulary.
        """
        parts = [np.asarray(sequence, dtype=np.int64) for sequence in sequences]
        tokens = np.concatenate([np.empty(0, np.int64), *parts])
        if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocabulary):
            raise DataError(f"tokens run from {tokens.min()} to {tokens.max()}, allowed are 0 to {vocabulary - 1}")
        return cls(tokens.astype(token_dtype(vocabulary)), starts_of([len(part) for part in parts]))

    def take(self, rows: Offsets) -> Keys:
        """The keys of some rows, int64 [M], in that order, as a copy."""
        starts = starts_of(self.lengths[rows])
        tokens = np.empty(starts[-1], self.tokens.dtype)
        take(self.tokens, self.starts, frozen(rows, np.int64), tokens, starts)
        return Keys(tokens, starts)


def starts_of(lengths: Sequence[int] | Offsets) -> Offsets:
    """int64 [N + 1], where sequences of these lengths begin and the last one ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def sort_keys(keys: Keys) -> tuple[Keys, Offsets]:
    """Sorts keys and drops repeated ones.

    Args:
        keys: N keys in any order.

    Returns:
        The M distinct keys, and int64 [N] with the number that each row has among them.
    """
    largest = int(keys.tokens.max(initial=0)) + 1
    bits = largest.bit_length()
    rows, numbers = np.arange(len(keys)), np.empty(len(keys), np.int64)
    sort_rows(keys.tokens, keys.starts, bits, 64 // bits, rows)
    size = number_rows(keys.tokens, keys.starts, rows, numbers)
    leaders = np.empty(size, np.int64)
    leaders[numbers[rows]] = rows
    return keys.take(leaders), numbers


def merge_keys(parts: Sequence[Keys]) -> tuple[Keys, list[Offsets]]:
    """The union of sorted lists of distinct keys, as the keys sorted at once would be.

    Args:
        parts: results of `sort_keys` or of this function; the tokens get the widest type among them.

    Returns:
        The M keys, and for each part int64 [N_part] with the number that each of its keys has among them.

    Raises:
        DataError: there is nothing to merge.
    """
    if not parts:
        raise DataError("no lists of keys to merge")
    level = [(part, [np.arange(len(part))]) for part in parts]
    while len(level) > 1:
        pairs = [_merge_two(*level[i], *level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + level[len(level) - len(level) % 2 :]
    keys, numbers = level[0]
    widest = np.result_type(*(part.tokens.dtype for part in parts))
    return Keys(keys.tokens.astype(widest, copy=False), keys.starts), numbers


def _merge_two(a: Keys, of_a: list[Offsets], b: Keys, of_b: list[Offsets]) -> tuple[Keys, list[Offsets]]:
    """Merges two lists and carries the numbers of the parts behind them along."""
    a_numbers, b_numbers = np.empty(len(a), np.int64), np.empty(len(b), np.int64)
    size = number_pair(a.tokens, a.starts, b.tokens, b.starts, a_numbers, b_numbers)
    lengths = np.empty(size, np.int64)
    lengths[a_numbers], lengths[b_numbers] = a.lengths, b.lengths
    starts = starts_of(lengths)
    tokens = np.empty(starts[-1], np.result_type(a.tokens, b.tokens))
    for part, numbers in ((a, a_numbers), (b, b_numbers)):
        place(part.tokens, part.starts, numbers, tokens, starts)
    return Keys(tokens, starts), [a_numbers[x] for x in of_a] + [b_numbers[x] for x in of_b]
