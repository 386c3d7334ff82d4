"""Splits questions by whole groups: every question about a predicate, or about a subject, falls into the same part.

A part is drawn from a hash of the group's name alone. So it does not matter which other rows there are: a group stays in its
part when rows are added, and two files that are split alike agree. The price is that shares are reached only about,
and badly where few groups hold most of the rows; so the shares that were reached are told.

Letters: N questions, G groups.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kxbatch.engine.questions import read_rows, text_column
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.graph.text import normalize, split_meaning

By = Literal["predicate", "subject"]
PARTS = ("train", "valid", "test")
COMPRESSION = "zstd"


@dataclass(frozen=True)
class Shares:
    """What `valid` and `test` should get of the groups, 0 to 1; `train` gets the rest.

    Raises:
        ConfigError: a share is negative, or nothing is left for training.
    """

    valid: float = 0.1
    test: float = 0.1

    def __post_init__(self) -> None:
        if not (self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1):  # NaN is none of these
            raise ConfigError(
                f"valid {self.valid} and test {self.test}: shares are 0 or more, and leave something for training"
            )

    def part(self, draw: float) -> str:
        """The part of a draw from [0, 1)."""
        if draw < self.test:
            return "test"
        return "valid" if draw < self.test + self.valid else "train"


@dataclass(frozen=True)
class Split:
    """What a split came to.

    Attributes:
        by: what a group is.
        rows: questions of each part.
        groups: groups of each part.
        largest: name of the group with the most questions, as it is compared.
        largest_rows: how many it has.
        paths: the file of each part.
    """

    by: By
    rows: dict[str, int]
    groups: dict[str, int]
    largest: str
    largest_rows: int
    paths: dict[str, str]


def group_names(rows: pa.Table, by: By) -> pa.Array:
    """large_string [N]: the group of each question, normalised; of a subject without its meaning, so names stay together."""
    column = rows[by].combine_chunks().cast(pa.large_string())
    return normalize(split_meaning(column)[0] if by == "subject" else column)


def parts_of(groups: pa.Array, shares: Shares, seed: int) -> pa.Array:
    """The part of each row.

    Args:
        groups: large_string [N], names of groups.
        shares: what the parts should get.
        seed: another one gives another split.

    Returns:
        string [N]: `train`, `valid` or `test`.
    """
    encoded = groups.dictionary_encode()
    parts = [shares.part(_draw(name, seed)) for name in encoded.dictionary.to_pylist()]
    return pa.array(parts, pa.string()).take(encoded.indices)


def split_questions(path: Path, output: Path, by: By, shares: Shares, seed: int) -> Split:
    """Writes `train.parquet`, `valid.parquet` and `test.parquet`, all columns kept.

    Args:
        path: questions, a Parquet, JSONL, CSV or TSV file.
        output: folder for the parts, made if need be.
        by: what a group is.
        shares: what the parts should get.
        seed: another one gives another split.

    Raises:
        ConfigError: a part would take the place of the file.
        DataError: the file cannot be read, has no such column of texts, or too few groups for a part to get any.
    """
    rows = read_rows(path, (by,))
    paths = {part: output / f"{part}.parquet" for part in PARTS}
    if path.resolve() in {target.resolve() for target in paths.values()}:
        raise ConfigError(f"{path}: would be overwritten by one of its parts; give another folder with --output")
    text_column(path, rows, by)  # a row without a group would be in no part
    groups = group_names(rows, by)
    parts = parts_of(groups, shares, seed)
    of_part = {part: rows.filter(pc.equal(parts, part)) for part in PARTS}
    counted = {part: len(groups.filter(pc.equal(parts, part)).unique()) for part in PARTS}
    _refuse_empty(path, by, {"train": 1.0, "valid": shares.valid, "test": shares.test}, counted)
    sizes = groups.value_counts()
    largest = int(np.argmax(sizes.field("counts").to_numpy()))
    output.mkdir(parents=True, exist_ok=True)
    for part, table in of_part.items():
        _write(table, paths[part])
    return Split(
        by,
        {part: table.num_rows for part, table in of_part.items()},
        counted,
        sizes.field("values")[largest].as_py(),
        sizes.field("counts")[largest].as_py(),
        {part: str(target) for part, target in paths.items()},
    )


def _draw(name: str, seed: int) -> float:
    """From [0, 1), by the name alone: 53 bits of BLAKE2b."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def _refuse_empty(path: Path, by: By, wanted: Mapping[str, float], groups: Mapping[str, int]) -> None:
    empty: Sequence[str] = [part for part in PARTS if wanted[part] > 0 and not groups[part]]
    if empty:
        raise DataError(
            f"{path}: none of the {sum(groups.values())} groups by {by} fell into {' and '.join(empty)}; "
            "whole groups are split, so larger shares, another seed or another --by"
        )


def _write(rows: pa.Table, path: Path) -> None:
    """The file appears whole or not at all."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        pq.write_table(rows, partial, compression=COMPRESSION)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
