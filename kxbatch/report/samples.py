"""What the sample stages left: a sheet of the first images, or what the vectors are like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from kxbatch.data.row_groups import row_batches
from kxbatch.data.storage import File, Folder
from kxbatch.data.vectors import to_numpy
from kxbatch.errors import DataError
from kxbatch.kernels.spread import merge_spreads, spread_of
from kxbatch.report.density_rows import part_files
from kxbatch.report.parquet import open_parquet
from kxbatch.report.pictures import contact_sheet
from kxbatch.report.record import Run

SHOWN = 64  # images
_BATCH = 4096
_SETTINGS = ("seed", "steps", "eta", "guidance")  # columns that are the same for all samples of a stage


@dataclass(frozen=True)
class Vectors:
    """What vectors are like.

    Attributes:
        width: numbers of each.
        mean_norm: length of the mean vector.
        deviation: root mean square of the standard deviations of its numbers.
        norms: smallest, mean and largest length of a vector.
    """

    width: int
    mean_norm: float
    deviation: float
    norms: tuple[float, float, float]


@dataclass(frozen=True)
class Samples:
    """One sample stage that has rows.

    Attributes:
        name: of the stage.
        rows: of all parts.
        settings: name and value of what the samples were drawn with.
        sheet: address of a picture of the first images; None without images.
        shown: images on it.
        vectors: None without vectors.
    """

    name: str
    rows: int
    settings: tuple[tuple[str, float], ...]
    sheet: str | None = None
    shown: int = 0
    vectors: Vectors | None = None


def read_samples(output: Folder, run: Run) -> Iterator[Samples]:
    """Every sample stage of a run that has rows, in job order.

    Raises:
        DataError: a file is not what a sample stage writes.
    """
    for name in run.stage_names("sample"):
        files = list(part_files(output.child(name)).values())
        rows, settings, schema = _facts(files)
        if not rows or schema is None:
            continue
        if "image" in schema.names and pa.types.is_binary(schema.field("image").type):
            images = _first(files, "image", SHOWN)
            yield Samples(name, rows, settings, contact_sheet(images), len(images))
        else:
            yield Samples(name, rows, settings, vectors=_vectors(files))


def _facts(files: Sequence[File]) -> tuple[int, tuple[tuple[str, float], ...], pa.Schema | None]:
    """Rows, settings, and the columns of the first part that has rows."""
    rows, schema = 0, None
    settings: tuple[tuple[str, float], ...] = ()
    for file in files:
        with open_parquet(file, ("id", "sample_id", "seed")) as part:
            if part.metadata.num_rows and schema is None:
                schema = part.schema_arrow
                there = [name for name in _SETTINGS if name in schema.names]
                first = next(row_batches(part, 1, there)).to_pylist()[0]
                settings = tuple((name, first[name]) for name in there if isinstance(first[name], int | float))
            rows += part.metadata.num_rows
    return rows, settings, schema


def _first(files: Sequence[File], column: str, most: int) -> list[bytes]:
    """The first values of a column."""
    found: list[bytes] = []
    for file in files:
        with open_parquet(file, (column,)) as part:
            for batch in row_batches(part, most, (column,)):
                found += batch.column(column).slice(0, most - len(found)).to_pylist()
                if len(found) == most:
                    return found
    return found


def _vectors(files: Sequence[File]) -> Vectors:
    """What the vectors of all parts are like, in float64."""
    spread, norms = None, []
    for file in files:
        with open_parquet(file, ("vector",)) as part:
            for batch in row_batches(part, _BATCH, ("vector",)):
                values = to_numpy(batch.column("vector"), "vector", np.float64)
                own = spread_of(values)
                if spread is not None and len(spread.mean) != values.shape[1]:
                    raise DataError(
                        f"{file}: vectors of {values.shape[1]} numbers, and {len(spread.mean)} in other parts"
                    )
                spread = own if spread is None else merge_spreads(spread, own)
                lengths = np.linalg.norm(values, axis=1)
                norms.append((len(lengths), lengths.min(), lengths.sum(), lengths.max()))
    assert spread is not None
    counts, smallest, sums, largest = (np.array(one) for one in zip(*norms, strict=True))
    return Vectors(
        width=len(spread.mean),
        mean_norm=float(np.linalg.norm(spread.mean)),
        deviation=math.sqrt(float(np.square(spread.deviation).mean())),
        norms=(float(smallest.min()), float(sums.sum() / counts.sum()), float(largest.max())),
    )
