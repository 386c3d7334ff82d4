"""Keys added to and deleted from a trie without building it again.

An overlay is a value, too: adding or deleting gives another one over the same arrays, and whoever is in the middle of a
search goes on with the one it began with. States belong to the overlay they came from.

Numbers stay: those of the trie below are its own, an added key gets the next free number for good. `compact` numbers anew.

Letters: B states, K keys of the trie below, M keys added, D keys deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.trie.automaton import find
from kxbatch.kernels.trie.compiled import unite
from kxbatch.kernels.trie.keys import Keys, frozen, merge_keys, sort_keys
from kxbatch.kernels.trie.trie import NONE, Allowed, Completions, Trie

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Overlay:
    """A trie with changes. States are int64 [B, 4]: one of the trie below, and one of the keys added.

    Attributes:
        base: the trie below, K keys.
        added: a small trie of the M added keys, none of which is in `base`.
        numbers: int64 [M], the number of each added key; K or more.
        deleted: int64 [D], numbers of keys of `base`, rising.
        next_number: of the next key that is added.
    """

    base: Trie
    added: Trie
    numbers: Numbers
    deleted: Numbers
    next_number: int

    @classmethod
    def over(cls, base: Trie) -> Overlay:
        """No changes yet."""
        nothing = Keys.of([], base.vocabulary)
        return cls(base, Trie.build(nothing, base.vocabulary), NONE, NONE, len(base))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """The changes as named arrays; the trie below has its own."""
        keys = self.added.keys(np.arange(len(self.added)))
        return {
            "tokens": keys.tokens,
            "starts": keys.starts,
            "numbers": self.numbers,
            "deleted": self.deleted,
            "next_number": np.array(self.next_number, np.int64),
        }

    @classmethod
    def from_arrays(cls, base: Trie, arrays: Mapping[str, NDArray[Any]]) -> Overlay:
        """The inverse of `to_arrays`, over the trie that it was made over.

        Raises:
            DataError: the changes do not fit this trie.
        """
        added = Trie.build(Keys(arrays["tokens"], arrays["starts"]), base.vocabulary)
        numbers, deleted = (frozen(arrays[name], np.int64) for name in ("numbers", "deleted"))
        fits = len(numbers) == len(added) and (numbers >= len(base)).all() and (np.diff(deleted) > 0).all()
        if not fits or (len(deleted) and not 0 <= deleted[0] <= deleted[-1] < len(base)):
            raise DataError(
                f"changes that were not made over this trie of {len(base)} keys: use the trie they belong to"
            )
        return cls(base, added, numbers, deleted, int(arrays["next_number"]))

    def __len__(self) -> int:
        return len(self.base) - len(self.deleted) + len(self.added)

    @property
    def vocabulary(self) -> int:
        """V, that of the trie below."""
        return self.base.vocabulary

    def add(self, keys: Keys) -> tuple[Overlay, Numbers]:
        """Adds keys; those that are there already stay as they are.

        Costs as much as building a trie of all keys added so far.

        Args:
            keys: N keys in any order.

        Returns:
            The overlay with them, and int64 [N], their numbers. A key of the trie below that had been deleted comes back
            under its number.

        Raises:
            DataError: a token lies outside the vocabulary.
        """
        distinct, of_row = sort_keys(keys)
        below, here = find(self.base, distinct), find(self.added, distinct)
        new = np.flatnonzero((below < 0) & (here < 0))
        issued = self.next_number + np.arange(len(new))
        numbers = below
        numbers[here >= 0], numbers[new] = self.numbers[here[here >= 0]], issued
        (merged, (old_at, new_at)) = merge_keys([self.added.keys(np.arange(len(self.added))), distinct.take(new)])
        merged_numbers = np.empty(len(merged), np.int64)
        merged_numbers[old_at], merged_numbers[new_at] = self.numbers, issued
        overlay = replace(
            self,
            added=Trie.build(merged, self.vocabulary) if len(new) else self.added,
            numbers=frozen(merged_numbers),
            deleted=frozen(np.setdiff1d(self.deleted, numbers, assume_unique=True)),
            next_number=self.next_number + len(new),
        )
        return overlay, numbers[of_row]

    def delete(self, keys: Keys) -> tuple[Overlay, Numbers]:
        """Deletes keys: from now on nothing leads to them.

        Args:
            keys: N keys in any order.

        Returns:
            The overlay without them, and int64 [N], the numbers they had; -1 for keys that were not there.
        """
        numbers = find(self, keys)
        gone = np.unique(numbers[numbers >= 0])
        kept = np.flatnonzero(~np.isin(self.numbers, gone))
        overlay = replace(
            self,
            added=self.added if len(kept) == len(self.added) else Trie.build(self.added.keys(kept), self.vocabulary),
            numbers=frozen(self.numbers[kept]),
            deleted=frozen(np.union1d(self.deleted, gone[gone < len(self.base)])),
        )
        return overlay, numbers

    def compact(self) -> tuple[Trie, Numbers]:
        """One trie of the keys there are, byte for byte the one that is built from them.

        Returns:
            The trie, and int64 with the number that each of its keys has had in the overlay.
        """
        kept = np.setdiff1d(np.arange(len(self.base)), self.deleted, assume_unique=True)
        parts = [self.base.keys(kept), self.added.keys(np.arange(len(self.added)))]
        merged, (of_base, of_added) = merge_keys(parts)
        numbers = np.empty(len(merged), np.int64)
        numbers[of_base], numbers[of_added] = kept, self.numbers
        return Trie.build(merged, self.vocabulary), numbers

    def start(self, rows: int) -> Numbers:
        """States [rows, 4] in which nothing has been said."""
        return np.zeros((rows, 4), np.int64)

    def allowed(self, states: Numbers) -> Allowed:
        """What may follow states [B, 4]; no token leads to deleted keys only."""
        a, b = self.base.allowed_without(self.deleted, states[:, :2]), self.added.allowed(states[:, 2:])
        return Allowed(*unite(a.tokens, a.offsets, a.states, b.tokens, b.offsets, b.states))

    def advance(self, states: Numbers, tokens: Numbers) -> Numbers:
        """The states [B, 4] that tokens [B] lead to from states [B, 4]; -1 where no key goes on like this."""
        a = self.base.advance_without(self.deleted, states[:, :2], tokens)
        return np.concatenate([a, self.added.advance(states[:, 2:], tokens)], axis=1)

    def terminal(self, states: Numbers) -> Numbers:
        """int64 [B]: the number of the key that ends at each of the states [B, 4], or -1."""
        numbers, added = self.base.terminal_without(self.deleted, states[:, :2]), self.added.terminal(states[:, 2:])
        numbers[added >= 0] = self.numbers[added[added >= 0]]
        return numbers

    def count(self, states: Numbers) -> Numbers:
        """int64 [B]: keys below each of the states [B, 4], the one that ends there included."""
        counts: Numbers = self.base.count_without(self.deleted, states[:, :2]) + self.added.count(states[:, 2:])
        return counts

    def completions(self, states: Numbers, limit: int) -> Completions:
        """Keys below states [B, 4], at most `limit` each: those of the trie below first, then added ones."""
        a = self.base.completions_without(self.deleted, states[:, :2], limit)
        b = self.added.completions(states[:, 2:], limit)
        rows = np.concatenate([np.repeat(np.arange(len(states)), np.diff(x.offsets)) for x in (a, b)])
        order = np.argsort(rows, kind="stable")
        offsets = np.searchsorted(rows[order], np.arange(len(states) + 1))
        order = order[np.arange(len(order)) - offsets[rows[order]] < limit]
        keys = Keys(
            np.concatenate([a.keys.tokens, b.keys.tokens]),
            np.concatenate([a.keys.starts, b.keys.starts[1:] + a.keys.starts[-1]]),
        ).take(order)
        numbers = np.concatenate([a.numbers, self.numbers[b.numbers]])[order]
        return Completions(keys, np.searchsorted(rows[order], np.arange(len(states) + 1)), numbers)

    def keys(self, numbers: Numbers) -> Keys:
        """The keys of some numbers, int64 [M], in that order; also those of deleted keys.

        Raises:
            DataError: there has been no key of such a number.
        """
        later = numbers >= len(self.base)
        by_number = np.argsort(self.numbers)
        row = np.searchsorted(self.numbers, numbers[later], sorter=by_number)
        if (row == len(by_number)).any() or (self.numbers[by_number[row]] != numbers[later]).any():
            raise DataError(f"key numbers up to {numbers.max()}, the trie has had none of some of them")
        places = np.concatenate([np.flatnonzero(~later), np.flatnonzero(later)])
        a, b = self.base.keys(numbers[~later]), self.added.keys(by_number[row])
        both = Keys(np.concatenate([a.tokens, b.tokens]), np.concatenate([a.starts, b.starts[1:] + a.starts[-1]]))
        return both.take(np.argsort(places))
