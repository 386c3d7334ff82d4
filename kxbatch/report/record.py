"""What the JSON files of an output say, as typed records: the fields a report shows, all others ignored."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


def finite_or_none(value: Any) -> Any:
    """A measure that is not defined (the skewness of a single row) comes as NaN or null: None here."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Measure = Annotated[float | None, BeforeValidator(finite_or_none)]
Numbers = tuple[Measure, ...]


class Record(BaseModel):
    """Base of the records: frozen, and open to fields it does not know."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Unit(Record):
    """One unit of work of a stage: a shard, or a pair of blocks."""

    key: str | int = ""
    seconds: Measure = None
    rows: int | None = None
    worker: str | int | None = None
    reused: bool = False


class StageRun(Record):
    """What one stage did in a run. Times in seconds."""

    name: str
    kind: str = ""
    shards: int | None = None
    failed: int | None = None
    rows_in: int | None = None
    rows_out: int | None = None
    rows_quarantined: int | None = None
    seconds: Measure = None
    rows_per_second: Measure = None
    counters: dict[str, int | float] = {}
    note: str = ""
    units: tuple[Unit, ...] = ()


class Failure(Record):
    """One unit of work that was given up."""

    phase: str = ""
    key: str | int = ""
    error: str = ""
    message: str = ""
    attempts: int | None = None


class InputFacts(Record):
    """What the job read."""

    rows: int | None = None


class Run(Record):
    """`run.json`."""

    job: dict[str, Any] = {}
    status: str = "unknown"
    exit_code: int | None = None
    message: str = ""
    input: InputFacts = InputFacts()
    fingerprint: str = ""
    versions: dict[str, Any] = {}
    started: str = ""
    seconds: Measure = None
    stages: tuple[StageRun, ...] = ()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()

    def stage_names(self, kind: str) -> list[str]:
        """Names of the job's stages of one kind, in job order."""
        stages = [stage for stage in self.job.get("stage", ()) if stage.get("kind") == kind]
        return [str(stage.get("name", kind)) for stage in stages]

    def training_stages(self) -> list[dict[str, Any]]:
        """The job's stages that train a model, in job order."""
        return [stage for stage in self.job.get("stage", ()) if isinstance(stage.get("training"), dict)]


class LivePhase(Record):
    """A phase of a run that is at work."""

    stage: str
    phase: str


class Live(Record):
    """`progress.json`."""

    status: str = "running"
    started: str = ""
    phases: tuple[LivePhase, ...] = ()


class Drift(Record):
    """How far the rows now are from the rows a pinned transform was fitted on."""

    score: Measure = None
    mean_shift: Measure = None
    covariance_shift: Measure = None
    frechet: Measure = None
    rows_pinned: int | None = None
    rows_now: int | None = None


class Spectrum(Record):
    """`spectrum.json` of a whiten stage; it describes what the stage read, not what it wrote.

    Attributes:
        eigenvalues: of the covariance, descending, [d].
        explained_share: cumulative share of the variance in the first 1, 2, ... directions.
        dim: directions kept.
        mean_cosine: mean cosine of two random rows, 0 for isotropic data.
    """

    n: int = 0
    dim: int = 0
    eigenvalues: Numbers = ()
    effective_rank: Measure = None
    explained_share: Numbers = ()
    beta: Measure = None
    gamma: Measure = None
    mean_cosine: Measure = None
    drift: Drift | None = None


class Histogram(Record):
    """How many rows have each k-occurrence: two columns of equal length, k-occurrence ascending."""

    k_occurrence: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


class Measures(Record):
    """The hubness of one k-nearest-neighbour graph (Radovanovic et al., 2010; Feldbauer and Flexer, 2019)."""

    n: int = 0
    k: int = 0
    metric: str = ""
    skewness: Measure = None
    robin_hood: Measure = None
    gini: Measure = None
    atkinson: Measure = None
    antihub_share: Measure = None
    hub_share: Measure = None
    hub_occurrence: Measure = None
    max_k_occurrence: int | None = None
    groupie_ratio: Measure = None
    histogram: Histogram = Histogram()


class Hubness(Record):
    """`hubness.json` of a hubness stage: the graph as it is (None without usable rows), and after a reduction."""

    k: int = 0
    metric: str = ""
    reduction: str = "none"
    column: str = ""
    mean_cosine: Measure = None
    raw: Measures | None = None
    reduced: Measures | None = None
