"""What a dataset holds: columns, rows, nulls, and for vectors lengths, norms and what is not a number. One pass, bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.filesystems import absolute
from kxbatch.data.parts import open_part, read_footer
from kxbatch.data.receipts import BOOKKEEPING, read_receipts
from kxbatch.data.row_groups import row_batches
from kxbatch.data.storage import File, Folder
from kxbatch.data.vectors import is_vector, lengths
from kxbatch.errors import ConfigError, DataError

BATCH = 8192


@dataclass(frozen=True)
class VectorFacts:
    """Facts about one vector column.

    Attributes:
        dim: length of the vectors; None where they differ.
        lengths: length -> vectors of that length.
        dtype: type of the elements.
        norm_min: smallest Euclidean norm of the vectors without NaN and infinity; None where there are none.
        norm_mean: mean of these norms.
        norm_max: largest of these norms.
        zero: zero vectors.
        nan: elements that are NaN.
        infinite: elements that are infinite.
        null: elements that are null.
        mean_cosine: mean cosine over all pairs of rows with a direction, the most common length only.
    """

    dim: int | None
    lengths: dict[int, int]
    dtype: str
    norm_min: float | None
    norm_mean: float | None
    norm_max: float | None
    zero: int
    nan: int
    infinite: int
    null: int
    mean_cosine: float | None


@dataclass(frozen=True)
class ColumnFacts:
    """One column; `vector` is None where it holds no vectors."""

    name: str
    type: str
    nulls: int
    vector: VectorFacts | None


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset.

    Attributes:
        path: folder or file.
        parts: Parquet files.
        rows: rows.
        bytes: size of the files.
        columns: in order.
        head: the first rows.
        notes: what does not fit, in words.
    """

    path: str
    parts: int
    rows: int
    bytes: int
    columns: list[ColumnFacts]
    head: list[dict[str, Any]]
    notes: list[str]


def inspect(path: str | Path, *, head: int = 5) -> DatasetFacts:
    """Look at a dataset.

    Args:
        path: a stage's folder, any folder of Parquet files, or one file.
        head: first rows to keep.

    Raises:
        ConfigError: not a dataset; says what it is instead.
        DataError: a part that cannot be read.
    """
    files, notes = dataset_files(absolute(str(path), None))
    schema = read_footer(files[0])[0]
    scan = _Scan(schema, head)
    for file in files:
        own = read_footer(file)[0]
        if own.names != schema.names or own.types != schema.types:
            raise DataError(
                f"{file.name} and {files[0].name} of {path} do not agree on their columns: {own} / {schema}"
            )
        scan.read(file)
    columns = [
        ColumnFacts(
            f.name, str(f.type), scan.nulls[f.name], scan.vectors[f.name].facts() if is_vector(f.type) else None
        )
        for f in schema
    ]
    size = sum(file.size() or 0 for file in files)
    return DatasetFacts(str(path), len(files), scan.rows, size, columns, scan.head, notes)


def dataset_files(path: str) -> tuple[list[File], list[str]]:
    """The parts of a dataset, in order, and notes; of a stage's folder, those that have a receipt.

    Args:
        path: a local path or an `s3://` address, absolute.

    Raises:
        ConfigError: nothing to read there.
    """
    folder = Folder(path)
    if not folder.exists():
        if File(path).size() is None:
            raise ConfigError(f"{path}: no such folder or file")
        return [File(path)], []
    names = folder.names(".parquet")
    if not folder.child(BOOKKEEPING, "receipts").exists():
        if not names:
            raise ConfigError(f"{path}: no Parquet files here{_stages_within(folder)}")
        return [folder.file(name) for name in names], []
    known = sorted(receipt.file for receipt in read_receipts(folder, "map").values())
    if not known:
        raise ConfigError(f"{path}: this stage has no finished part yet; `kxbatch run` makes them")
    strangers = sorted(set(names) - set(known))
    words = f"{len(strangers)} file(s) without a receipt are left out ({', '.join(strangers[:3])}); see kxbatch verify"
    return [folder.file(name) for name in known], [words] if strangers else []


def _stages_within(folder: Folder) -> str:
    stages = [name for name in folder.listing().folders if folder.child(name, BOOKKEEPING).exists()]
    return f"; this is an output, inspect one of its stages: {', '.join(stages)}" if stages else ""


class _Scan:
    """Sums over all batches of all parts."""

    def __init__(self, schema: pa.Schema, head: int) -> None:
        self.rows, self.head, self._wanted = 0, [], head  # type: int, list[dict[str, Any]], int
        self.nulls: Counter[str] = Counter()
        self.vectors = {f.name: _VectorScan(str(f.type.value_type)) for f in schema if is_vector(f.type)}

    def read(self, file: File) -> None:
        with open_part(file) as part:
            for batch in row_batches(part, BATCH):
                self._add(batch)

    def _add(self, batch: pa.RecordBatch) -> None:
        missing = self._wanted - len(self.head)
        if missing > 0:
            self.head += batch.slice(0, missing).to_pylist()
        self.rows += batch.num_rows
        for column, values in zip(batch.schema, batch.columns, strict=True):
            self.nulls[column.name] += values.null_count
            if column.name in self.vectors:
                self.vectors[column.name].add(values)


@dataclass
class _VectorScan:
    """Running sums of one vector column, in float64."""

    dtype: str
    lengths: Counter[int] = field(default_factory=Counter)
    norms: int = 0
    norm_sum: float = 0.0
    norm_min: float = np.inf
    norm_max: float = -np.inf
    zero: int = 0
    nan: int = 0
    infinite: int = 0
    null: int = 0
    directions: dict[int, tuple[int, npt.NDArray[np.float64]]] = field(default_factory=dict)

    def add(self, array: pa.Array) -> None:
        """One batch; vectors of each length by themselves."""
        length = lengths(pa.chunked_array([array]))
        for dim in np.unique(length[length >= 0]).tolist():
            rows = np.flatnonzero(length == dim)
            self.lengths[dim] += len(rows)
            flat = (array if len(rows) == len(array) else array.take(pa.array(rows))).flatten()
            self.null += flat.null_count
            self._measure(flat.to_numpy(zero_copy_only=False).reshape(len(rows), dim), flat.null_count)

    def _measure(self, x: npt.NDArray[Any], nulls: int) -> None:
        if not x.size:
            return
        values = x.astype(np.float64)  # nulls are NaN by now
        self.nan += int(np.isnan(values).sum()) - nulls
        self.infinite += int(np.isinf(values).sum())
        values = values[np.isfinite(values).all(axis=1)]
        norms = np.sqrt(np.einsum("ij,ij->i", values, values))
        self.norms += len(norms)
        self.norm_sum += float(norms.sum())
        self.norm_min = min(self.norm_min, float(norms.min(initial=np.inf)))
        self.norm_max = max(self.norm_max, float(norms.max(initial=-np.inf)))
        self.zero += int((norms == 0).sum())
        directed = norms > 0
        count, total = self.directions.get(x.shape[1], (0, np.zeros(x.shape[1])))
        unit_sum = (values[directed] / norms[directed, None]).sum(axis=0)
        self.directions[x.shape[1]] = (count + int(directed.sum()), total + unit_sum)

    def facts(self) -> VectorFacts:
        """The sums as facts."""
        measured = self.norms > 0
        return VectorFacts(
            dim=next(iter(self.lengths)) if len(self.lengths) == 1 else None,
            lengths=dict(self.lengths.most_common()),
            dtype=self.dtype,
            norm_min=self.norm_min if measured else None,
            norm_mean=self.norm_sum / self.norms if measured else None,
            norm_max=self.norm_max if measured else None,
            zero=self.zero,
            nan=self.nan,
            infinite=self.infinite,
            null=self.null,
            mean_cosine=_mean_cosine(self.directions, self.lengths.most_common(1)),
        )


def _mean_cosine(
    directions: dict[int, tuple[int, npt.NDArray[np.float64]]], common: Sequence[tuple[int, int]]
) -> float | None:
    """Mean of `u_i . u_j` over all pairs i != j of unit vectors, from their sum s: `(|s|^2 - n) / (n (n - 1))`."""
    n, total = directions.get(common[0][0], (0, np.zeros(0))) if common else (0, np.zeros(0))
    return float((total @ total - n) / (n * (n - 1))) if n > 1 else None
