"""Rows of a graph, dictionary-coded: of millions of rows only the distinct strings are looked at.

Letters: R rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kxbatch.models.graph.strings import from_flat, sorted_distinct, to_flat

Codes = NDArray[np.uint32]
COLUMNS = ("subject", "predicate", "meaning", "object")


class Column(NamedTuple):
    """A column of strings.

    Attributes:
        pool: large_string, distinct.
        codes: uint32 [R], where in the pool the string of each row is.
    """

    pool: pa.Array
    codes: Codes

    @classmethod
    def of(cls, strings: pa.Array | pa.ChunkedArray) -> Column:
        """Of R strings without nulls."""
        texts = strings.combine_chunks() if isinstance(strings, pa.ChunkedArray) else strings
        coded = texts.cast(pa.large_string()).dictionary_encode()
        return cls(coded.dictionary, coded.indices.to_numpy().astype(np.uint32))


@dataclass(frozen=True, eq=False)
class Triples:
    """Facts, one a row, as they are spelled.

    Attributes:
        columns: subject, predicate, meaning, object.
        read: rows that were read for them, repeated ones included.
    """

    columns: tuple[Column, ...]
    read: int

    @classmethod
    def of(cls, strings: Sequence[pa.Array | pa.ChunkedArray]) -> Triples:
        """Of four arrays of R strings without nulls; a row that says the same as another one goes."""
        columns = [Column.of(column) for column in strings]
        packed = pack([column.codes for column in columns], [len(column.pool) for column in columns])
        first = np.sort(np.unique(packed, return_index=True)[1])
        return cls(tuple(Column(column.pool, column.codes[first]) for column in columns), len(packed))

    def __len__(self) -> int:
        return len(self.columns[0].codes)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """As named arrays."""
        arrays: dict[str, NDArray[Any]] = {"read": np.array([self.read])}
        for name, column in zip(COLUMNS, self.columns, strict=True):
            arrays[f"{name}.letters"], arrays[f"{name}.starts"] = to_flat(column.pool)
            arrays[f"{name}.codes"] = column.codes
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Triples:
        """The inverse of `to_arrays`."""
        columns = [
            Column(from_flat(arrays[f"{name}.letters"], arrays[f"{name}.starts"]), arrays[f"{name}.codes"])
            for name in COLUMNS
        ]
        return cls(tuple(columns), int(arrays["read"][0]))

    @classmethod
    def together(cls, parts: Sequence[Triples]) -> Triples:
        """All rows of some lists, with pools in the order of their UTF-8 bytes; rows may be there more than once."""
        columns = tuple(_united([part.columns[i] for part in parts]) for i in range(len(COLUMNS)))
        return cls(columns, sum(part.read for part in parts))


def pack(ranks: Sequence[NDArray[Any]], sizes: Sequence[int]) -> NDArray[np.int64]:
    """One integer for each row, ordered as the tuples of its ranks are.

    Args:
        ranks: integers [R] for each column, from 0.
        sizes: what they are below.
    """
    packed, most = ranks[0].astype(np.int64), max(sizes[0], 1)
    for rank, size in zip(ranks[1:], sizes[1:], strict=True):
        if most * size >= 2**63:  # numbered anew, to be fewer: no more than there are rows
            packed = np.unique(packed, return_inverse=True)[1]
            most = len(packed)
        packed, most = packed * size + rank, most * size
    return packed


def _united(columns: Sequence[Column]) -> Column:
    """Columns one below the other, over one sorted pool."""
    pool, numbers = sorted_distinct(pa.concat_arrays([column.pool for column in columns]))
    of_part = np.split(numbers.astype(np.uint32), np.cumsum([len(column.pool) for column in columns])[:-1])
    return Column(pool, np.concatenate([of[column.codes] for of, column in zip(of_part, columns, strict=True)]))
