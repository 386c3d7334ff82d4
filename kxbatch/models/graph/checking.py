"""Which rows can be facts: none of subject, predicate and object is missing, and nothing in them would break a line or a key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kxbatch.models.graph.triples import COLUMNS

_BREAK = r"[\t\n\v\f\r\x{85}\x{2028}\x{2029}]"
WORDS = {
    "null": "is null",
    "blank": "is blank",
    "line-break": "holds a tab or a line break, which lists of facts are cut at",
    "separator": "holds the tokenizer's separator, which ends a part of a key",
}


class Fault(NamedTuple):
    """Why a row is no fact.

    Attributes:
        row: its number.
        column: which of `COLUMNS`.
        error: which of `WORDS`.
    """

    row: int
    column: str
    error: str


def find_faults(texts: Sequence[pa.Array], separator: str) -> list[Fault]:
    """The first fault of each row that has one, by row.

    Args:
        texts: subject, predicate, meaning and object, R strings each; nulls are faults, but for meanings.
        separator: the tokenizer's, as it is spelled; empty: it is not looked for.
    """
    found: dict[int, Fault] = {}
    for name, column in zip(COLUMNS, texts, strict=True):
        distinct, of_row = _coded(column) if name != "object" else (column, slice(None))  # most objects come once
        for error, holds in _checks(name, separator).items():
            bad = _where(distinct, holds)
            for row in np.flatnonzero(bad[of_row]).tolist() if bad.any() else ():
                found.setdefault(row, Fault(row, name, error))
    return [found[row] for row in sorted(found)]


def _checks(column: str, separator: str) -> dict[str, Callable[[pa.Array], pa.Array]]:
    checks: dict[str, Callable[[pa.Array], pa.Array]] = {
        "line-break": lambda texts: pc.match_substring_regex(texts, pattern=_BREAK)
    }
    if column != "meaning":
        checks = {"null": pc.is_null, "blank": _blank} | checks
    if column != "object" and separator:  # objects are no part of a key
        checks["separator"] = lambda texts: pc.match_substring(texts, pattern=separator, ignore_case=True)
    return checks


def _coded(texts: pa.Array) -> tuple[pa.Array, NDArray[Any]]:
    coded = texts.dictionary_encode(null_encoding="encode")
    return coded.dictionary, coded.indices.to_numpy()


def _blank(texts: pa.Array) -> pa.Array:
    return pc.equal(pc.binary_length(pc.utf8_trim_whitespace(texts)), 0)


def _where(texts: pa.Array, holds: Callable[[pa.Array], pa.Array]) -> NDArray[Any]:
    found: NDArray[Any] = pc.fill_null(holds(texts), False).to_numpy(zero_copy_only=False)
    return found
