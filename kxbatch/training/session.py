"""What the trainer is given: the rows, the task, where to keep state, whom to tell. It crosses processes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.storage import Folder
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Artifact
from kxbatch.stages.task import Task

Status = Literal["trained", "stopped early", "diverged", "interrupted"]  # how a training ended


@dataclass(frozen=True)
class ShardRows:
    """The rows of one shard that can be trained on, as the survey found them.

    Attributes:
        rows: int64 [n], their places in the shard.
        sizes: int32 [n].
        keys: uint64 [n], see `stages.task.KEY`.
    """

    rows: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int32]
    keys: npt.NDArray[np.uint64]


class Session(Protocol):
    """One training. Methods work in every process; a process keeps what it built."""

    @property
    def name(self) -> str:
        """Of the stage."""

    @property
    def base(self) -> Path:
        """Folder that relative paths start from."""

    @property
    def config(self) -> TrainingConfig:
        """How it is trained."""

    @property
    def seed(self) -> int:
        """Of everything drawn at random."""

    @property
    def threads(self) -> int:
        """Compute threads of one worker."""

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""

    @property
    def identity(self) -> str:
        """Fingerprint of everything that decides the weights; a state of another one is not gone on with."""

    @property
    def shards(self) -> int:
        """How many shards there are."""

    @property
    def rows(self) -> tuple[int, ...]:
        """Rows of each shard that are trained on: neither set aside nor held out."""

    def surveyed(self, shard: int) -> ShardRows:
        """The usable rows of a shard."""

    def table(self, shard: int) -> pa.Table:
        """`id` and the stage's columns of a whole shard."""

    def task(self) -> Task:
        """The task."""

    def folder(self) -> Folder:
        """Where state is kept while it trains; writing is fenced by the run's lease."""

    def override(self) -> dict[str, Any]:
        """Content of `deepspeed.file`; empty without one."""

    def conclude(self, artifact: Artifact, facts: dict[str, Any]) -> None:
        """Publish what was trained; called once, by one process, in the end."""


class Watcher(Protocol):
    """Who looks on while it trains; asked and told by process 0 alone."""

    def tell(self, facts: dict[str, Any]) -> None:
        """A line of the history."""

    def stopping(self) -> bool:
        """Whether it should end: save the state and return."""
