"""What the sample stages left: a sheet of the first images, or what the vectors are like."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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

Setting = float | int | str | None
SHOWN = 64  # images of a sheet
MOST_SHEETS = 12
_LOOKED_AT = 2048  # samples among which the settings are sought that batches take in turn
_BATCH = 4096
_SETTINGS = ("steps", "eta", "variance", "guidance", "latents")  # columns of what samples were drawn with


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
class Sheet:
    """Images that were drawn alike.

    Attributes:
        settings: what they were drawn with, in words; empty where all were drawn alike.
        address: of the picture.
        shown: images on it.
    """

    settings: str
    address: str
    shown: int


@dataclass(frozen=True)
class Samples:
    """One sample stage that has rows.

    Attributes:
        name: of the stage.
        rows: of all parts.
        settings: name of what the samples were drawn with, and the values it takes.
        sheets: pictures of the first images of each setting.
        vectors: None without vectors.
        acceptance: mean share of the latents that were good enough, where they are chosen; None where they are not.
    """

    name: str
    rows: int
    settings: tuple[tuple[str, tuple[Setting, ...]], ...]
    sheets: tuple[Sheet, ...] = ()
    vectors: Vectors | None = None
    acceptance: float | None = None


def read_samples(output: Folder, run: Run) -> Iterator[Samples]:
    """Every sample stage of a run that has rows, in job order.

    Raises:
        DataError: a file is not what a sample stage writes.
    """
    for name in run.stage_names("sample"):
        files = list(part_files(output.child(name)).values())
        rows, schema = _facts(files)
        if not rows or schema is None:
            continue
        image = "image" in schema.names and pa.types.is_binary(schema.field("image").type)
        names = ["seed", *(one for one in _SETTINGS if one in schema.names)]
        more = [one for one in ("image" if image else "", "acceptance") if one in schema.names]
        first = _first(files, [*names, *more])
        settings = tuple((one, tuple(dict.fromkeys(row[one] for row in first))) for one in names)
        sheets = tuple(_sheets(first, settings)) if image else ()
        yield Samples(name, rows, settings, sheets, None if image else _vectors(files), _acceptance(first))


def _facts(files: Sequence[File]) -> tuple[int, pa.Schema | None]:
    """Rows, and the columns of the first part that has rows."""
    rows, schema = 0, None
    for file in files:
        with open_parquet(file, ("id", "sample_id", "seed")) as part:
            if part.metadata.num_rows and schema is None:
                schema = part.schema_arrow
            rows += part.metadata.num_rows
    return rows, schema


def _first(files: Sequence[File], columns: Sequence[str]) -> list[dict[str, Any]]:
    """The first rows."""
    found: list[dict[str, Any]] = []
    for file in files:
        with open_parquet(file, columns) as part:
            for batch in row_batches(part, _LOOKED_AT, columns):
                found += batch.slice(0, _LOOKED_AT - len(found)).to_pylist()
                if len(found) == _LOOKED_AT:
                    return found
    return found


def _sheets(rows: Sequence[dict[str, Any]], settings: Sequence[tuple[str, tuple[Setting, ...]]]) -> Iterator[Sheet]:
    """One for each combination of what differs; damaged images leave their place free."""
    differing = [name for name, values in settings if len(values) > 1]
    groups: dict[tuple[Setting, ...], list[bytes]] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in differing), []).append(row["image"])
    for values, images in list(groups.items())[:MOST_SHEETS]:
        address = contact_sheet(images[:SHOWN])
        if address is not None:
            words = zip(differing, values, strict=True)
            yield Sheet(", ".join(f"{name} {told(value)}" for name, value in words), address, len(images[:SHOWN]))


def _acceptance(rows: Sequence[dict[str, Any]]) -> float | None:
    shares = [row["acceptance"] for row in rows if row.get("latents", "prior") != "prior"]
    return sum(shares) / len(shares) if shares else None


def told(value: Setting) -> str:
    """A setting in words; numbers come as float32."""
    return "none" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


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
