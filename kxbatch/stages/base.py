"""What a stage is: Arrow tables and a context in, columns, states or lists out.

A stage knows no paths, no shards, no retries. It has some of these phases, run in this order:

- `fold`: `fold(table) -> state`, `merge(a, b)`, then `fit(...) -> Artifact`;
- `survey`, `train`: `survey(table) -> Survey` of every shard, then the trainer works on `task(...)`, which ends in an `Artifact`;
- `pairs`: `pair(block, block) -> lists`, `gather` per block, then `conclude` over all of them;
- `map`: `map(table) -> Mapped`, row for row, order kept. A stage without it leaves an artifact and no rows.

A stage whose configuration is a `MakerConfig` reads nothing: its `map` is given tables of `id` and `sample_id`, the numbers of the
rows it is to make.

To add a stage: one file here with a `StageConfig`, a `Stage` and `STAGE = ...`; the registry finds it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.data.quarantine import Rejected
from kxbatch.errors import DataError
from kxbatch.spec.model import StageConfig
from kxbatch.spec.training import TrainingConfig

if TYPE_CHECKING:
    from kxbatch.stages.task import Task

ConfigT = TypeVar("ConfigT", bound=StageConfig)
ColumnKind = Literal["text", "vector", "number", "image", "other"]
Phase = Literal["fold", "survey", "train", "pairs", "map"]
SAMPLE_ID = "sample_id"  # column of row numbers, int64, that a stage reads which makes its rows
TRAINED = "stage:"  # a model or tokenizer of that name is what an earlier stage of the job leaves


@dataclass(frozen=True)
class Column:
    """A column a stage reads or adds; `name` None means: the one column of that kind which the input has.

    Attributes:
        also: other kinds that will do where it is named.
    """

    name: str | None
    kind: ColumnKind
    also: tuple[ColumnKind, ...] = ()


@dataclass(frozen=True)
class Reads:
    """What a stage reads.

    Attributes:
        upstream: the stage whose rows it reads, or `input`.
        kinds: of the columns.
        origins: `STAGE.COLUMN` that made each of them: two columns of one origin have the same values.
    """

    upstream: str
    kinds: dict[str, ColumnKind]
    origins: dict[str, str]


@dataclass
class Context:
    """What a stage is told while it works.

    Attributes:
        seed: of everything it draws at random.
        threads: compute threads it may use.
        gpus: GPUs it may use.
        counters: what it wants counted in receipts and reports.
        artifact: reads the stage's fitted arrays by file name; None before they are fitted.
        earlier: for a fit: reads a JSON document of the artifact that it takes the place of by file name; None for a document
            that is not there, and where there is no such artifact or it was fitted while rows were missing.
        trained: a folder on this machine with the artifact of an earlier stage, by the stage's name.
        facts: what the surveys of all shards say together.
        patch: what `conclude` left for the shard at hand.
        ids: ids of rows by global row number, null for -1; for stages that have a pairs phase.
    """

    seed: int
    threads: int
    gpus: float
    counters: Counter[str] = field(default_factory=Counter)
    artifact: Callable[[str], Arrays] | None = None
    earlier: Callable[[str], Any] | None = None
    trained: Callable[[str], Path] | None = None
    facts: Callable[[], Arrays] | None = None
    patch: Arrays = field(default_factory=dict)
    ids: Callable[[npt.NDArray[np.int64]], pa.Array] | None = None

    def device(self, asked: str) -> str:
        """Where a model is to compute: as asked, and for `auto` on a GPU if there is one to use."""
        if asked != "auto":
            return asked
        return "cuda" if self.gpus else "cpu"


@dataclass
class Mapped:
    """Result of `map`: the added columns of the rows that went through, and the rows that did not.

    Attributes:
        columns: added columns, one value for each row that went through, in order.
        rejected: rows set aside; `row` is the row number in the table given.
    """

    columns: dict[str, pa.Array]
    rejected: list[Rejected] = field(default_factory=list)


@dataclass
class Artifact:
    """What a stage fitted or trained: files by name, for other rows, other jobs and the report.

    Attributes:
        arrays: safetensors files; results depend on them.
        documents: JSON files, for people.
        tables: Parquet files, for people.
        decides: names of the documents that results depend on, too, such as a tokenizer.
    """

    arrays: dict[str, Arrays] = field(default_factory=dict)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    tables: dict[str, pa.Table] = field(default_factory=dict)
    decides: tuple[str, ...] = ()

    @property
    def deciding(self) -> tuple[str, ...]:
        """Names of the files that results depend on."""
        return (*self.arrays, *self.decides)


class Stage(ABC, Generic[ConfigT]):
    """Base of all stages; a subclass sets the class variables and has the methods of its phases."""

    config_type: ClassVar[type[StageConfig]]
    version: ClassVar[int] = 1

    def __init__(self, config: ConfigT, column: str) -> None:
        self.config, self.column = config, column

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases this configuration needs."""
        return ("map",)

    @classmethod
    @abstractmethod
    def reads(cls, config: ConfigT) -> Column:
        """The input column it works on."""

    @classmethod
    @abstractmethod
    def adds(cls, config: ConfigT) -> tuple[Column, ...]:
        """The columns it adds."""

    @classmethod
    def adds_with(cls, config: ConfigT, taken: Mapping[str, tuple[StageConfig, Reads]]) -> tuple[Column, ...]:
        """The columns it adds, for a stage where that depends on the artifacts it takes.

        Args:
            config: of this stage.
            taken: the earlier stages that it takes artifacts of, by name: their configuration, and what they read.

        Raises:
            ConfigError: such an artifact cannot be worked with.
        """
        return cls.adds(config)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at random, so that the job's seed decides the result too."""
        return False

    @classmethod
    def also_reads(cls, config: ConfigT) -> tuple[str, ...]:
        """Names of further input columns it works on."""
        return ()

    @classmethod
    def check_columns(cls, config: ConfigT, kinds: Mapping[str, ColumnKind]) -> None:
        """Asked while planning, with the kinds of all columns it reads.

        Raises:
            ConfigError: they do not go together.
        """

    @property
    def columns(self) -> tuple[str, ...]:
        """All input columns it works on."""
        return (self.column, *self.also_reads(self.config))

    @classmethod
    def takes(cls, config: ConfigT) -> dict[str, tuple[str, ...]]:
        """Earlier stages whose artifacts it works with, and what kinds of artifact will do."""
        return {}

    @classmethod
    def check_taken(cls, config: ConfigT, name: str, taken: StageConfig, own: Reads, theirs: Reads) -> None:
        """Asked while planning, for each stage whose artifact it takes.

        Args:
            config: of this stage.
            name: of that one.
            taken: its configuration.
            own: what this stage reads.
            theirs: what that one reads.

        Raises:
            ConfigError: that stage leaves something this one cannot work with.
        """

    def identity(self) -> dict[str, str]:
        """What decides the result besides the configuration: a model's digest. Asked while planning: nothing heavy."""
        return {}

    @property
    def has_gate(self) -> bool:
        """Whether `judge` is to be asked."""
        return False

    def judge(self, new: Mapping[str, float], before: Mapping[str, float]) -> list[str]:
        """What is wrong with rows, told from the sums of their counters.

        Args:
            new: of the rows that came since the last run that was found good.
            before: of the rows of that run; empty for none.
        """
        return []

    def remarks(self, counters: Mapping[str, float]) -> list[str]:
        """What a person should know of the result, told from the sums of all counters."""
        return []

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """The part of the configuration that decides the result of a phase."""
        return self.config.semantic()

    def open(self, context: Context) -> None:
        """Load what `map` needs; called once per worker."""

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Compute the added columns."""
        raise NotImplementedError(f"{self.config.kind} has no map phase")


class FoldStage(Stage[ConfigT]):
    """A stage that learns something from all rows before it maps them."""

    keeps_state: ClassVar[bool] = True  # else the artifact is fitted on all rows of now, whenever they change

    def unusable(self, table: pa.Table, context: Context) -> list[Rejected]:
        """Rows that are set aside before the others are folded; asked only of a stage without a map phase, which says so itself."""
        return []

    @abstractmethod
    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """State of one shard."""

    @abstractmethod
    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """State of two sets of rows together; called in a fixed tree."""

    def merge_all(self, states: Iterable[Arrays]) -> Arrays:
        """State of all shards, in their order: by `merge`, in the binary tree of a counter: 1+1, 2+2, ...

        Holds a logarithmic number of states.
        """
        stack: list[tuple[int, Arrays]] = []
        for state in states:
            size, merged = 1, state
            while stack and stack[-1][0] == size:
                merged = self.merge(stack.pop()[1], merged)
                size *= 2
            stack.append((size, merged))
        _, merged = stack.pop()
        while stack:
            merged = self.merge(stack.pop()[1], merged)
        return merged

    @abstractmethod
    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """How far the rows of now are from those the pinned artifact was fitted on; compared with `max_drift`."""

    @abstractmethod
    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """The artifact from the pinned state; `current` (all rows of now) is for the drift report."""


@dataclass(frozen=True)
class Survey:
    """What the trainer knows of a shard before it reads it again.

    Attributes:
        sizes: int32, one for each usable row, in order: how much work it is, in any unit; rows of like size go together.
        rejected: rows that cannot be trained on.
        passed: numbers of good rows that are not to be trained on.
        facts: what `combine` puts together of all shards.
    """

    sizes: npt.NDArray[np.int32]
    rejected: list[Rejected] = field(default_factory=list)
    passed: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    facts: Arrays = field(default_factory=dict)


class TrainStage(Stage[ConfigT]):
    """A stage that trains a model; its configuration has a field `training`."""

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Look at every row once, then train."""
        return ("survey", "train")

    @property
    def draws(self) -> bool:
        """Weights, order of rows, masks."""
        return True

    @property
    def training(self) -> TrainingConfig:
        """How it is trained."""
        training: TrainingConfig = self.config.training  # type: ignore[attr-defined]  # every train stage has it
        return training

    @classmethod
    def adds(cls, config: ConfigT) -> tuple[Column, ...]:
        """No columns: it leaves an artifact."""
        return ()

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """What only tells how a model is trained decides nothing of the survey."""
        values = super().semantic(phase)
        if phase == "survey":
            return {key: value for key, value in values.items() if key in self.survey_depends_on}
        return values

    @property
    @abstractmethod
    def survey_depends_on(self) -> tuple[str, ...]:
        """Keys of the configuration that decide the survey."""

    @abstractmethod
    def survey(self, table: pa.Table, context: Context) -> Survey:
        """Sizes of a shard's rows."""

    def combine(self, facts: Iterator[Arrays]) -> Arrays:
        """What the surveys of all shards, in their order, say together; the task has it as `context.facts`."""
        return {}

    @abstractmethod
    def task(self, context: Context) -> Task:
        """What the trainer works on; built in every process that takes part."""


def accounting_phase(kind: type[Stage[Any]]) -> Phase:
    """The phase that accounts for every row: its receipts say what went through and what was set aside."""
    if kind.config_type.leaves == "rows":
        return "map"
    return "survey" if issubclass(kind, TrainStage) else "fold"


def trained_stage(reference: str) -> str | None:
    """The stage whose artifact is meant: `'stage:encoder'` gives `'encoder'`; None for anything else."""
    return reference.removeprefix(TRAINED) if reference.startswith(TRAINED) else None


def trained_stages(*wanted: tuple[str | None, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What a stage `takes`: of references, each with the kinds of artifact that will do, those that mean a stage's."""
    return {name: kinds for reference, kinds in wanted if (name := trained_stage(reference or "")) is not None}


def trained_path(reference: str, context: Context) -> str:
    """The reference itself, or for `stage:NAME` the folder of what that stage left."""
    name = trained_stage(reference)
    if name is None:
        return reference
    assert context.trained is not None
    return str(context.trained(name))


def only_column(columns: Mapping[str, ColumnKind], wanted: Column) -> str | None:
    """Name of the column to read: the one asked for, or the only one of its kind; None when that is not clear."""
    if wanted.name is not None:
        return wanted.name if wanted.name in columns else None
    found = [name for name, kind in columns.items() if kind == wanted.kind]
    return found[0] if len(found) == 1 else None


def checked_rows(stage: str, rows: int, mapped: Mapped) -> None:
    """A stage must account for every row.

    Raises:
        DataError: rows in differ from rows out plus rows set aside.
    """
    for name, column in mapped.columns.items():
        if len(column) + len(mapped.rejected) != rows:
            raise DataError(
                f"stage {stage}: column '{name}' has {len(column)} values and {len(mapped.rejected)} rows were set "
                f"aside, but {rows} rows came in; every row must go through or be set aside"
            )
