"""Triples shaped like those of KgCLUE: 20.5 million, over 3.1 million subjects and 246 thousand predicates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

TRIPLES, SUBJECTS, PREDICATES = 20_559_652, 3_121_457, 245_838  # of KgCLUE
_FIRST, _CHARACTERS = 0x4E00, 6000
_DRAWN = 500_000  # names drawn at a time
_PIECE = 2_000_000  # rows written at a time


def _names(rng: np.random.Generator, count: int, shortest: int, longest: int) -> pa.Array:
    """Distinct names of Chinese characters, some of which are frequent as in any language."""
    drawn: list[pa.Array] = []
    for start in range(0, count + count // 8 + 64, _DRAWN):
        shape = (min(_DRAWN, count + count // 8 + 64 - start), longest)
        codes = _FIRST + np.minimum(rng.zipf(1.15, shape), _CHARACTERS).astype(np.uint32)
        codes += rng.integers(0, 40, shape, dtype=np.uint32)
        codes[np.arange(longest) >= rng.integers(shortest, longest + 1, shape[0])[:, None]] = 0
        drawn.append(pa.array(codes.view(f"<U{longest}")[:, 0], pa.large_string()))
    return pc.unique(pa.chunked_array(drawn)).slice(0, count)


def write(path: Path, triples: int, seed: int = 0) -> None:
    """Write a Parquet file of subject, predicate, object; subjects of one name have meanings in full-width brackets.

    Args:
        path: the file.
        triples: rows; subjects and predicates are fewer in the proportions of KgCLUE.
        seed: of everything.
    """
    rng, share = np.random.default_rng(seed), triples / TRIPLES
    subjects = _names(rng, round(SUBJECTS * share), 2, 9)
    predicates = _names(rng, round(PREDICATES * share), 2, 6)
    meanings = _names(rng, round(SUBJECTS * share / 4), 4, 12)
    common, rare = _names(rng, 50_000, 1, 6), _names(rng, round(triples * 0.6), 3, 18)
    meant = rng.random(len(subjects)) < 0.35
    which = pa.array(np.where(meant, rng.integers(0, len(meanings), len(subjects)), -1), mask=~meant)
    ends = [pa.scalar(text, pa.large_string()) for text in ("（", "）", "")]
    bracketed = pc.binary_join_element_wise(ends[0], meanings.take(which), ends[1], ends[2])
    subjects = pc.binary_join_element_wise(subjects, pc.fill_null(bracketed, ""), ends[2])
    objects = pa.concat_arrays([common, rare])
    of_row = np.sort(rng.integers(0, len(subjects), triples))
    with pq.ParquetWriter(path, pa.schema([(name, pa.string()) for name in ("subject", "predicate", "object")])) as out:
        for start in range(0, triples, _PIECE):
            rows = of_row[start : start + _PIECE]
            said = (rng.zipf(1.2, len(rows)) + rng.integers(0, len(predicates), len(rows)) // 50) % len(predicates)
            is_rare = rng.random(len(rows)) < 0.6
            unseen = start * 6 // 10 + np.cumsum(is_rare)
            stated = np.where(is_rare, len(common) + unseen % len(rare), rng.integers(0, len(common), len(rows)))
            taken = zip((subjects, predicates, objects), (rows, said, stated), strict=True)
            columns = [pool.take(pa.array(which)).cast(pa.string()) for pool, which in taken]
            out.write_table(pa.table(columns, ["subject", "predicate", "object"]), row_group_size=250_000)
