"""What the density stages left: what their artifacts say, and what their rows are like."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from kxbatch.data.storage import Folder
from kxbatch.data.vectors import is_vector
from kxbatch.report.density_rows import NEEDED, Place, Row, part_files
from kxbatch.report.density_survey import Survey, survey
from kxbatch.report.loading import load
from kxbatch.report.parquet import open_parquet
from kxbatch.report.pictures import picture
from kxbatch.report.record import Measure, Numbers, Record, Run

ACTIVE = 0.01  # variance of a latent dimension's mean above which it is in use (Burda et al., 2016)

Positive = Annotated[int, Field(gt=0)]


class Calibration(Record):
    """The log densities of rows that nothing was fitted on, nats."""

    rows: int = 0
    mean: Measure = None
    standard_deviation: Measure = None


class Estimate(Record):
    """The mean log density of the calibration rows with so many samples, and its standard error."""

    samples: Positive
    mean: Measure = None
    stderr: Measure = None


class Latent(Record):
    """Per latent dimension: KL divergence from the prior in nats, and the variance of the posterior's mean over the rows."""

    kl: Numbers = ()
    variance: Numbers = ()
    active: int | None = None


class Compression(Record):
    """Bits that the calibration rows take: by the model, one value after another without one, and packed."""

    rows: Positive
    bits: Measure = None
    raw_bits: Measure = None
    zlib_bits: Measure = None
    zstd_bits: Measure = None


class BoundSteps(Record):
    """Neighbouring steps of a diffusion model: the times they start from, how many, and bits a value of all together."""

    first: Positive
    last: Positive
    steps: Positive = 1
    bits: Measure = None


class Bound(Record):
    """Terms of a variational bound, bits a value: at the last time, by the steps, and from the first time to the data."""

    prior: Measure = None
    steps: tuple[BoundSteps, ...] = ()
    decoder: Measure = None


class Facts(Record):
    """`density.json`; `levels` of whole values, `shape` of images."""

    estimator: str = ""
    columns: tuple[str, ...] = ()
    dim: Positive | None = None
    discrete: bool = False
    likelihood: str | None = None
    samples: Positive | None = None
    score: str | None = None
    labels: str | None = None
    levels: Positive | None = None
    shape: tuple[int, ...] | None = None
    calibration: Calibration | None = None
    convergence: tuple[Estimate, ...] = ()
    latent: Latent | None = None
    compression: Compression | None = None
    bound: Bound | None = None


@dataclass(frozen=True)
class Density:
    """One density stage.

    Attributes:
        name: of the stage.
        facts: what its artifact says; nothing, where there is none.
        survey: of its rows; None where there is none yet.
        pictures: addresses of the shown rows' images, where there are any.
    """

    name: str
    facts: Facts
    survey: Survey | None = None
    pictures: Mapping[Place, str] = field(default_factory=dict)

    @property
    def bits_per_dim(self) -> float | None:
        """Mean over the rows: `-log_density / (dim ln 2)`."""
        mean, dim = self.survey.mean if self.survey else None, self.facts.dim
        return None if mean is None or dim is None else -mean / (dim * math.log(2))

    @property
    def is_bound(self) -> bool:
        """Whether its values are a lower bound, and no estimate."""
        return self.facts.estimator == "diffusion"

    @property
    def few_share(self) -> float | None:
        """Share of the rows whose estimate few samples carry."""
        ess = self.survey.ess if self.survey else None
        return ess.few / ess.rows if ess else None


def read_densities(output: Folder, run: Run) -> Iterator[Density]:
    """Every density stage of a run that has an artifact or rows, in job order.

    Raises:
        DataError: a file is not what a density stage writes.
    """
    for name in run.stage_names("density"):
        stage = output.child(name)
        facts = load(stage.child("_artifact"), "density.json", Facts)
        rows = survey(stage, facts.labels if facts else None)
        if facts is not None or rows is not None:
            pictures = _pictures(stage, facts, rows.shown) if facts and rows else {}
            yield Density(name, facts or Facts(), rows, pictures)


def _pictures(stage: Folder, facts: Facts, rows: Sequence[Row]) -> dict[Place, str]:
    """Pictures of these rows, where the parts hold their images."""
    by_shard: dict[int, set[int]] = defaultdict(set)
    for row in rows:
        by_shard[row.place.shard].add(row.place.at)
    files, found = part_files(stage), {}
    for shard, places in sorted(by_shard.items()):
        with open_parquet(files[shard], NEEDED) as part:
            column = _image_column(part.schema_arrow, facts)
            for at, value in _values(part, column, sorted(places)) if column else ():
                drawn = picture(value, facts.shape, facts.levels)
                if drawn is not None:
                    found[Place(shard, at)] = drawn
    return found


def _image_column(schema: pa.Schema, facts: Facts) -> str | None:
    """The image column that the densities are of, or else the only column of files that is kept with them."""
    files = [one.name for one in schema if pa.types.is_binary(one.type) or pa.types.is_large_binary(one.type)]
    lists = [one.name for one in schema if facts.shape and is_vector(one.type)]
    read = [name for name in (*files, *lists) if name in facts.columns]
    return read[0] if read else files[0] if len(files) == 1 else None


def _values(part: pq.ParquetFile, column: str, places: Sequence[int]) -> Iterator[tuple[int, object]]:
    """Values of a column at these places; row groups without one are not read."""
    start = 0
    for group in range(part.num_row_groups):
        rows = part.metadata.row_group(group).num_rows
        wanted = [at for at in places if start <= at < start + rows]
        if wanted:
            values = part.read_row_group(group, columns=[column])[column]
            yield from ((at, values[at - start].as_py()) for at in wanted)
        start += rows
