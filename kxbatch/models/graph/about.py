"""What a person wants to know of a graph that was built: how much of everything there is, and what looks odd.

Letters: R rows, K keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kxbatch.models.graph.build import Built
from kxbatch.models.graph.facts import Facts, grouped
from kxbatch.models.graph.text import NORMALIZATION
from kxbatch.models.graph.tokenizer import GraphTokenizer
from kxbatch.models.graph.triples import Triples

_EXAMPLES = 10


def describe(
    triples: Triples, normalized: tuple[pa.Array, ...], built: Built, tokenizer: GraphTokenizer
) -> dict[str, Any]:
    """Counts and examples of a graph, as JSON values.

    Args:
        triples: what it was built from.
        normalized: their subjects, predicates and meanings as they are compared.
        built: the graph.
        tokenizer: of its keys.
    """
    facts, keys = built.facts, len(built.trie)
    subjects, predicates, meanings = (pc.count_distinct(pool).as_py() for pool in normalized)
    several, objects = _keys_with_several(facts)
    return {
        "rows": triples.read,
        "triples": len(facts.codes[0]),
        "duplicates": triples.read - len(facts.codes[0]),
        "keys": keys,
        "subjects": subjects,
        "predicates": predicates,
        "meanings": meanings - int(pc.any(pc.equal(normalized[2], "")).as_py() or False),
        "objects": len(facts.pools[-1]),
        "keys_with_several_objects": len(objects),
        "keys_with_several_spellings": len(several),
        "several_spellings": [_spellings(facts, number) for number in several[:_EXAMPLES].tolist()],
        "unknown": _unknown(normalized, tokenizer),
        "vocabulary": tokenizer.vocabulary,
        "bytes_per_key": round(built.trie.nbytes / keys, 2),
        "normalization": NORMALIZATION,
    }


def _keys_with_several(facts: Facts) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of the keys that are spelled in several ways, and of those that say several things."""
    starts = facts.starts.astype(np.int64)
    counts = np.diff(starts)
    keys = np.flatnonzero(counts > 1)
    first, of_row = np.repeat(starts[keys], counts[keys]), np.repeat(keys, counts[keys])
    rows = first + np.arange(len(first)) - np.repeat(np.cumsum(counts[keys]) - counts[keys], counts[keys])
    differs = [codes[rows] != codes[first] for codes in facts.codes]
    spelled = differs[0] | differs[1] | differs[2]
    return np.unique(of_row[spelled]), np.unique(of_row[differs[3]])


def _spellings(facts: Facts, number: int) -> list[list[str]]:
    rows = facts.of_keys(np.array([number]))[0]
    return [[part for part in (fact.subject, fact.predicate, fact.meaning) if part] for fact in grouped(rows)]


def _unknown(normalized: tuple[pa.Array, ...], tokenizer: GraphTokenizer) -> dict[str, Any]:
    """Strings that the tokenizer has no tokens for: those that differ in nothing else are one to the trie."""
    if tokenizer.unknown is None:
        return {"strings": 0, "examples": []}
    found: list[str] = []
    count = 0
    for pool in normalized:
        keys = tokenizer.encode(pool)
        places = np.searchsorted(keys.starts, np.flatnonzero(keys.tokens == tokenizer.unknown), side="right") - 1
        rows = np.unique(places)
        count += len(rows)
        found += pool.take(pa.array(rows[:_EXAMPLES])).to_pylist()
    return {"strings": count, "examples": found[:_EXAMPLES]}
