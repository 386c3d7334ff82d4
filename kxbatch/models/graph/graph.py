"""A graph of facts: which key sequences there are, and what each says.

A key is subject, predicate and meaning as tokens, with separators between them, in the graph's order. The trie holds keys
without a last separator, which is the token that ends a sequence: it may follow wherever a key ends, also where others go on.

Letters: N keys or texts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.trie import Keys, Overlay, find
from kxbatch.models.graph import changes
from kxbatch.models.graph.build import Built, Order, build, normalized_pools
from kxbatch.models.graph.changes import Change
from kxbatch.models.graph.facts import Fact, Facts, Row, grouped
from kxbatch.models.graph.spelling import Spelling
from kxbatch.models.graph.spelling import Strings as Texts
from kxbatch.models.graph.text import split_meaning
from kxbatch.models.graph.tokenizer import GraphTokenizer
from kxbatch.models.graph.triples import Triples
from kxbatch.models.graph.vocabulary import count_pools

__all__ = ["Fact", "Graph", "Order"]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Graph:
    """Facts, and a trie of their keys. It is a value: a change gives another one, and leaves this one as it is.

    Attributes:
        trie: of the keys; its numbers name them.
        spelling: how keys and questions are written in tokens.
        digest: of everything that is in it, changes included.
        stored: facts as they were built.
        changed: sorted rows of keys that were touched since, by number.
    """

    trie: Overlay
    spelling: Spelling
    digest: str
    stored: Facts
    changed: Mapping[int, changes.Rows] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def open(cls, folder: Path) -> Graph:
        """Open what `kxbatch kg build` or a stage of kind `graph` left: memory-mapped, digests checked, changes applied.

        Args:
            folder: of the output, of the stage, or the artifact itself.

        Raises:
            ConfigError: there is no graph there, or several.
            DataError: a file is damaged; names it and says what to do.
            RetryableError: it was built again in the meantime.
        """
        from kxbatch.models.graph.opening import open_graph

        return open_graph(folder)

    @classmethod
    def of(
        cls,
        triples: Iterable[tuple[str, str, str] | tuple[str, str, str, str]],
        *,
        tokenizer: GraphTokenizer | None = None,
        order: Order = "spm",
        vocabulary: int = 16_000,
        split: bool = True,
    ) -> Graph:
        """Build a graph in memory.

        Args:
            triples: subject, predicate, object; or subject, predicate, meaning, object.
            tokenizer: of the keys; absent: a vocabulary of the graph's own characters.
            order: of the parts of a key.
            vocabulary: tokens at most of that vocabulary.
            split: part subjects `X（Y）` of rows of three into subject and meaning.
        """
        rows = _rows(triples, split=split)
        columns = [pa.array([row[i] for row in rows], pa.large_string()) for i in range(4)]
        coded = Triples.together([Triples.of(columns)])
        normalized = normalized_pools(coded)
        tokenizer = tokenizer or GraphTokenizer.characters(count_pools(normalized), vocabulary)
        built = build(coded, normalized, tokenizer, order)
        return cls.over(built, Spelling(tokenizer, order, split), _digest_of(built, tokenizer, order))

    @classmethod
    def over(cls, built: Built, spelling: Spelling, digest: str) -> Graph:
        """A graph without changes.

        Raises:
            DataError: trie, facts and tokenizer are of different graphs.
        """
        tokenizer = spelling.tokenizer
        if len(built.trie) != len(built.facts) or built.trie.vocabulary != tokenizer.vocabulary:
            raise DataError(
                f"a trie of {len(built.trie)} keys over {built.trie.vocabulary} tokens, facts of {len(built.facts)} keys and a "
                f"tokenizer of {tokenizer.vocabulary} tokens do not belong together: build the graph again"
            )
        return cls(Overlay.over(built.trie), spelling, digest, built.facts)

    def __len__(self) -> int:
        return len(self.trie)

    @property
    def tokenizer(self) -> GraphTokenizer:
        """Of keys and questions."""
        return self.spelling.tokenizer

    @property
    def order(self) -> Order:
        """Of the parts of a key."""
        return self.spelling.order

    def keys_of(self, subjects: Texts, predicates: Texts, meanings: Texts) -> Keys:
        """Key sequences of N subjects, predicates and meanings in any spelling; they need not be in the graph."""
        return self.spelling.keys(subjects, predicates, meanings)

    def questions(self, texts: Texts) -> Keys:
        """Tokens of N questions in any spelling, without a separator behind them."""
        return self.spelling.questions(texts)

    def find(self, subjects: Texts, predicates: Texts, meanings: Texts) -> Numbers:
        """int64 [N]: the numbers of keys, -1 for those that are not in the graph."""
        return find(self.trie, self.keys_of(subjects, predicates, meanings))

    def facts(self, numbers: Numbers) -> list[list[Fact]]:
        """What keys say, int64 [N]: for each a fact for every spelling, sorted by their UTF-8 bytes.

        Raises:
            DataError: there is no key of such a number.
        """
        return [grouped(rows) for rows in self.rows(numbers)]

    def rows(self, numbers: Numbers) -> list[Sequence[Row]]:
        """As `facts`, with one row for each object."""
        numbers = np.asarray(numbers, np.int64)
        if self.changed or self.trie.deleted.size:
            self._refuse_gone(numbers)
        elif len(numbers) and not 0 <= numbers.min() <= numbers.max() < len(self.stored):
            raise DataError(f"key numbers {numbers.min()} to {numbers.max()}, the graph has 0 to {len(self) - 1}")
        touched = np.array([number in self.changed for number in numbers.tolist()], np.bool_)
        stored = iter(self.stored.of_keys(numbers[~touched]))
        return [
            self.changed[number] if new else next(stored)
            for number, new in zip(numbers.tolist(), touched.tolist(), strict=True)
        ]

    def with_changes(self, made: Sequence[Change], *, missing: Literal["refuse", "ignore"] = "refuse") -> Graph:
        """The graph after changes, in their order.

        Costs as much as building a trie of all keys ever added.

        Args:
            made: the changes.
            missing: what to do about a deletion of what is not there.

        Raises:
            Missing: there is such a deletion; nothing was changed.
        """
        if not made:
            return self
        keys = self.keys_of([c.subject for c in made], [c.predicate for c in made], [c.meaning for c in made])
        there = np.unique(find(self.trie, keys))
        there = there[there >= 0]
        rows_of = dict(zip(there.tolist(), map(tuple, self.rows(there)), strict=True))
        applied = changes.apply(self.trie, keys, rows_of, made, refuse=missing == "refuse")
        kept = {number: rows for number, rows in self.changed.items() if number not in rows_of}
        digest = self.digest
        for change in made:
            digest = hashlib.sha256(f"{digest} {change.to_json()}".encode()).hexdigest()
        return replace(self, trie=applied.trie, changed=MappingProxyType(kept | applied.rows), digest=digest)

    def _refuse_gone(self, numbers: Numbers) -> None:
        """Raises DataError where a number names no key of now."""
        own = numbers < len(self.stored)
        there = np.where(
            own, (numbers >= 0) & ~np.isin(numbers, self.trie.deleted), np.isin(numbers, self.trie.numbers)
        )
        if not there.all():
            raise DataError(f"key number {numbers[~there][0]} is not in the graph, or not any more")


def _rows(triples: Iterable[tuple[str, ...]], *, split: bool) -> list[Row]:
    rows = [tuple(row) for row in triples]
    meanings = split_meaning(pa.array([row[0] for row in rows], pa.large_string()))
    named = zip(rows, *(part.to_pylist() for part in meanings), strict=True)
    return [
        Row(*row)
        if len(row) == 4
        else Row(subject, row[1], meaning, row[2])
        if split
        else Row(row[0], row[1], "", row[2])
        for row, subject, meaning in named
    ]


def _digest_of(built: Built, tokenizer: GraphTokenizer, order: Order) -> str:
    hashing = hashlib.sha256(f"{tokenizer.digest} {order}".encode())
    for array in (*built.trie.to_arrays().values(), *built.facts.to_arrays().values()):
        hashing.update(np.ascontiguousarray(array).tobytes())
    return hashing.hexdigest()
