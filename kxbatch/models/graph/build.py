"""From rows to a trie of keys and the facts of each, the same bytes whatever order the rows came in.

Only distinct strings are normalised and tokenised. Parts of a key end with the separator, which stands in none of them, so keys are
ordered as the tuples of their parts' ranks are: one integer a row to sort by, and no token is compared again.

Letters: R rows, K keys, C the parts of a key: subject, predicate, meaning in the graph's order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.key_parts import append_part
from kxbatch.kernels.trie import Keys, Trie, sort_keys
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.graph.facts import Facts
from kxbatch.models.graph.strings import Strings, smallest
from kxbatch.models.graph.text import normalize
from kxbatch.models.graph.tokenizer import GraphTokenizer
from kxbatch.models.graph.triples import Column, Triples, pack

Order = Literal["spm", "smp"]
PARTS: dict[Order, tuple[int, int, int]] = {"spm": (0, 1, 2), "smp": (0, 2, 1)}  # columns in the order of a key
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Built:
    """A graph as it is built.

    Attributes:
        trie: of K keys.
        facts: of each of them.
    """

    trie: Trie
    facts: Facts


@dataclass(frozen=True, eq=False)
class _Part:
    """The distinct values of one part of a key.

    Attributes:
        keys: sorted; with the separator at the end, unless it is the last part.
        ranks: int64, for each string of the pool the number of its value.
    """

    keys: Keys
    ranks: Numbers


def build(triples: Triples, normalized: tuple[pa.Array, ...], tokenizer: GraphTokenizer, order: Order) -> Built:
    """Build a graph.

    Args:
        triples: R rows over sorted pools (`Triples.together`).
        normalized: `normalize` of the first three pools.
        tokenizer: of the keys.
        order: of their parts.

    Raises:
        DataError: there is no row.
    """
    if not len(triples):
        raise DataError("an empty graph: there is no fact to build it from; see what was set aside, and why")
    parts = [_part(normalized[i], tokenizer, ended=i != PARTS[order][-1]) for i in PARTS[order]]
    columns = [triples.columns[i] for i in PARTS[order]]
    ranks = [part.ranks[column.codes] for part, column in zip(parts, columns, strict=True)]
    packed = pack(ranks, [len(part.keys) for part in parts])
    rows = _sorted_rows(packed, triples.columns)
    first = _differs(packed[rows])
    leaders = rows[first]
    del packed
    keys = _assembled([part.keys for part in parts], [rank[leaders] for rank in ranks])
    del ranks
    starts = np.append(np.flatnonzero(first), len(rows))
    pools = tuple(Strings.of(column.pool) for column in triples.columns)
    codes = tuple(smallest(column.codes[rows], len(column.pool)) for column in triples.columns)
    facts = Facts(smallest(starts, len(rows)), pools, codes)
    return Built(Trie.build(keys, tokenizer.vocabulary), facts)


def normalized_pools(triples: Triples) -> tuple[pa.Array, ...]:
    """`normalize` of the strings that keys are made of."""
    return tuple(normalize(column.pool) for column in triples.columns[:3])


def ended_by(keys: Keys, separator: int) -> Keys:
    """The keys with a separator behind each."""
    ends = keys.starts[1:] + np.arange(len(keys))
    tokens = np.empty(len(keys.tokens) + len(keys), keys.tokens.dtype)
    inside = np.ones(len(tokens), np.bool_)
    inside[ends] = False
    tokens[inside], tokens[ends] = keys.tokens, separator
    return Keys(tokens, keys.starts + np.arange(len(keys) + 1))


def assembled(parts: list[Keys]) -> Keys:
    """Row by row, the parts of keys one behind the other."""
    rows = np.arange(len(parts[0]))
    return _assembled(parts, [rows] * len(parts))


def _part(normalized: pa.Array, tokenizer: GraphTokenizer, *, ended: bool) -> _Part:
    distinct = Column.of(normalized)
    keys = tokenizer.encode(distinct.pool)
    found, numbers = sort_keys(ended_by(keys, tokenizer.separator) if ended else keys)
    return _Part(found, numbers[distinct.codes])


def _sorted_rows(packed: Numbers, columns: tuple[Column, ...]) -> Numbers:
    """Rows by key, and by their strings within a key; a row that is there twice comes once."""
    rows = np.argsort(packed, kind="stable")
    first = _differs(packed[rows])
    tied = np.flatnonzero(~(first & np.append(first[1:], True)))
    among = rows[tied]
    order = np.lexsort([column.codes[among] for column in reversed(columns)] + [packed[among]])
    rows[tied] = among[order]
    same = ~first
    for column in columns:
        same[tied] &= ~_differs(column.codes[rows[tied]])
    return rows[~same]


def _differs(values: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Which values are others than those before them; the first one is."""
    return np.append(np.ones(min(1, len(values)), np.bool_), values[1:] != values[:-1])


def _assembled(parts: list[Keys], rows: list[Numbers]) -> Keys:
    """Keys from their parts, which `rows` number for each part and key."""
    lengths = np.zeros(len(rows[0]), np.int64)
    for part, of in zip(parts, rows, strict=True):
        lengths += part.lengths[of]
    starts = starts_of(lengths)
    tokens, ends = np.empty(starts[-1], parts[0].tokens.dtype), starts[:-1].copy()
    for part, of in zip(parts, rows, strict=True):
        append_part(part.tokens, part.starts, of, tokens, ends)
    return Keys(tokens, starts)
