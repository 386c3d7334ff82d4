"""How far density stages agree about the rows that they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.storage import Folder
from kxbatch.kernels.correlation import spearman
from kxbatch.kernels.ranking import lowest_overlap
from kxbatch.report.density_rows import NEEDED, Floats, Thinned, part_files
from kxbatch.report.parquet import read_parquet

LOWEST_SHARE = 0.01
MOST_COMPARED = 50_000  # rows of two stages; of more every second, fourth, ...


@dataclass(frozen=True)
class Agreement:
    """How far two stages order the same rows alike.

    Attributes:
        stages: their names.
        rows: compared, every `every`th of those that both have.
        spearman: rank correlation of the log densities.
        overlap: share of the lowest hundredth of one that is in the lowest hundredth of the other.
    """

    stages: tuple[str, str]
    rows: int
    every: int
    spearman: float | None
    overlap: float | None


def read_agreements(output: Folder, stages: Sequence[str]) -> list[Agreement]:
    """Compare every two stages over the rows that both have, shard by shard.

    Raises:
        DataError: a part is damaged, or has no ids or log densities.
    """
    parts = {name: part_files(output.child(name)) for name in stages}
    both = {pair: Thinned(2, MOST_COMPARED) for pair in combinations(stages, 2)}
    for shard in sorted({number for files in parts.values() for number in files}):
        held = {name: read_parquet(files[shard], NEEDED) for name, files in parts.items() if shard in files}
        for pair, rows in both.items():
            if held.keys() >= set(pair):
                rows.add(_joined(*(held[name] for name in pair)))
    return [_agreement(pair, rows) for pair, rows in both.items()]


def _joined(first: pa.Table, second: pa.Table) -> Floats:
    """Log densities [n, 2] of the rows in both tables, in the order of the first; a row without one is left out."""
    at = pc.index_in(first["id"], value_set=second["id"].combine_chunks().cast(first["id"].type))
    found = second["log_density"].take(at)
    columns = [pc.cast(column, pa.float64()).to_numpy() for column in (first["log_density"], found)]
    rows = np.stack(columns, axis=1)
    return np.asarray(rows[~np.isnan(rows).any(axis=1)])


def _agreement(pair: tuple[str, str], rows: Thinned) -> Agreement:
    a, b = rows.rows.T
    return Agreement(pair, len(a), rows.every, spearman(a, b), lowest_overlap(a, b, LOWEST_SHARE))
