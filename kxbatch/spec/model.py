"""The job file as types.

Every stage kind brings its own `StageConfig`; the union of them, told apart by `kind`, is made where the kinds are
known. A field marked `Operational()` says how a job runs, not what it computes: it is left out of fingerprints.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from kxbatch.spec.sizes import Size

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
NOTHING = ""  # what a stage reads that makes its rows


class Operational:
    """Marks a field that changes how a job runs (resources, places, limits) but never what it computes."""


class Config(BaseModel):
    """Base of all configuration: immutable; an unknown key is an error, and so is a number that JSON cannot hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def semantic(self) -> dict[str, Any]:
        """The fields that decide the result, as JSON values, in the order they are declared; inner tables likewise."""
        operational = {
            name
            for name, field in type(self).model_fields.items()
            if any(isinstance(mark, Operational) or mark is Operational for mark in field.metadata)
        }
        values = self.model_dump(mode="json", exclude=operational)
        inner = {name: value for name in values if isinstance(value := getattr(self, name), Config)}
        return values | {name: value.semantic() for name, value in inner.items()}


class Resources(Config):
    """What one worker of a stage needs, and how patient the engine is with it."""

    cpus: float = Field(1, gt=0, description="CPUs of one worker; also its number of threads")
    gpus: float = Field(0, ge=0, description="GPUs of one worker")
    memory: Size | None = Field(None, description="memory of one worker, for placement: '2GB'")
    workers: int | None = Field(None, ge=1, description="most workers at once; absent: as many as fit")
    attempts: int = Field(3, ge=1, description="how often a shard is tried before it is parked")
    timeout: float = Field(3600, gt=0, description="seconds one shard may take")
    startup_timeout: float = Field(300, gt=0, description="seconds a worker may take to get ready")

    @property
    def threads(self) -> int:
        """Compute threads of one worker: its CPUs, at least one."""
        return max(1, int(self.cpus))


class StageConfig(Config):
    """What every stage has; a kind adds its own fields.

    Attributes:
        leaves: `rows`, or the kind of artifact of one that leaves nothing else: what comes after it reads past it.
    """

    leaves: ClassVar[str] = "rows"

    kind: str
    name: Annotated[str, Operational] = Field("", description="folder of the stage's output; absent: its kind")
    input: Annotated[str | None, Operational] = Field(
        None, description="name of the stage it reads, or 'input'; absent: the previous stage that leaves rows"
    )
    keep: tuple[str, ...] = Field((), description="input columns carried along into this stage's shards")
    resources: Annotated[Resources, Operational] = Resources()

    @model_validator(mode="before")
    @classmethod
    def _default_name(cls, data: Any) -> Any:
        if isinstance(data, dict) and not data.get("name") and isinstance(data.get("kind"), str):
            return {**data, "name": data["kind"]}
        return data

    @field_validator("name")
    @classmethod
    def _name_is_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name) or name == "input":
            raise ValueError(f"{name!r} cannot name a stage; use lower-case letters, digits, '-' and '_' (not 'input')")
        return name


class MakerConfig(StageConfig):
    """What a stage has that reads no rows but makes them: they are numbered from 0."""

    count: Annotated[int, Operational] = Field(
        ge=1, le=10**9, description="rows to make; with a larger count a later run adds those that are missing"
    )
    shard_rows: Annotated[int, Operational] = Field(
        1024, ge=1, description="rows of a shard; it is for rows that come later"
    )

    @model_validator(mode="after")
    def _reads_nothing(self) -> MakerConfig:
        for key in ("input", "keep"):
            if getattr(self, key):
                raise ValueError(f"{key}: a stage of kind '{self.kind}' makes its rows and reads none; leave {key} out")
        return self


class QuarantineBudget(Config):
    """How many rows of one stage may be set aside before the job stops with exit status 4."""

    max_rows: int = Field(1000, ge=0, description="most rows set aside by one stage")
    max_share: float = Field(0.01, ge=0, le=1, description="largest share of a stage's rows set aside")


class JobSection(Config):
    """`[job]`: what the job is called, where it writes and how it runs."""

    name: str = Field(description="name of the job; an output folder belongs to one job")
    output: Annotated[str, Operational] = Field(description="folder of everything the job writes")
    seed: int = Field(0, description="seed of everything drawn at random")
    executor: Annotated[Literal["inline", "ray"], Operational] = Field("ray", description="this process, or Ray")
    address: Annotated[str | None, Operational] = Field(None, description="Ray cluster; absent: a local one")
    quarantine: Annotated[QuarantineBudget, Operational] = QuarantineBudget()

    @field_validator("name")
    @classmethod
    def _name_is_plain(cls, name: str) -> str:
        if not NAME.fullmatch(name.lower()):
            raise ValueError(f"{name!r} cannot name a job; use letters, digits, '-' and '_'")
        return name


class InputSection(Config):
    """`[input]`: the corpus. A job whose stages all make their rows has none."""

    path: Annotated[tuple[str, ...], Operational] = Field(
        (), min_length=1, description="files, folders, globs or URLs; absent only where no stage reads the input"
    )
    id: str | None = Field(None, description="column of unique ids; absent: file name and row number")
    columns: tuple[str, ...] | None = Field(None, description="columns offered to the stages; absent: all")
    format: Literal["parquet", "jsonl", "csv", "tsv", "text", "nt", "conll", "cluener", "cmeee"] | None = Field(
        None, description="format of every file; absent: by file name"
    )
    names: tuple[str, ...] | None = Field(
        None, min_length=1, description="CSV and TSV without a header line: the columns, in their order"
    )
    types: Literal["infer", "text"] = Field(
        "infer", description="CSV and TSV: the first rows tell numbers from text, or every column is text"
    )
    tsv_quotes: bool = Field(True, description="TSV: a field may stand in quotes; false: quotes are characters")
    text_per: Literal["line", "file"] = Field("line", description="plain text: a row is a line, or a file")
    join: Literal[" ", ""] = Field(
        " ", description="CoNLL: what stands between tokens; '' where a token is a character"
    )
    removed: Annotated[Literal["keep", "drop"], Operational] = Field(
        "keep", description="rows of input files that are gone: keep what was computed, or drop it"
    )
    shard_size: Annotated[Size, Operational] = Field(16_000_000, description="bytes of input a shard aims at")
    max_ratio: Annotated[float, Operational] = Field(
        1000, gt=1, description="largest believable decompression ratio of a compressed file"
    )

    @field_validator("names")
    @classmethod
    def _names_differ(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        doubled = [name for name in names or () if (names or ()).count(name) > 1]
        if doubled:
            raise ValueError(f"{doubled[0]!r} names two columns; give each one a name of its own")
        return names

    @field_validator("path", "columns", mode="before", json_schema_input_type=str | tuple[str, ...] | None)
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class JobSpec(Config):
    """A whole job file, its stages typed by their kinds."""

    job: JobSection
    input: InputSection = InputSection()
    stage: tuple[StageConfig, ...]

    @model_validator(mode="after")
    def _stages_form_a_tree(self) -> JobSpec:
        names: list[str] = []
        for config in self.stage:
            if config.name in names:
                raise ValueError(f"two stages are called '{config.name}'; give one a name of its own")
            names.append(config.name)
        return self

    def upstream(self, index: int) -> str:
        """Name of what stage `index` reads: the one it names, else the nearest before it that leaves rows, or `'input'`.

        `NOTHING` for a stage that makes its rows.
        """
        if isinstance(self.stage[index], MakerConfig):
            return NOTHING
        declared = self.stage[index].input
        if declared is not None:
            return declared
        with_rows = [config.name for config in self.stage[:index] if config.leaves == "rows"]
        return with_rows[-1] if with_rows else "input"
