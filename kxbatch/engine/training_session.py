"""What the trainer is given: a stage's rows and task, and where its state lies; plain data that crosses processes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from kxbatch.data.arrays import read_arrays
from kxbatch.data.documents import publish_sealed
from kxbatch.data.storage import Folder
from kxbatch.engine.assign import Assignment
from kxbatch.engine.cards import ARTIFACT, TRAINING, publish_artifact
from kxbatch.engine.worker import Worker
from kxbatch.errors import ConfigError
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Artifact
from kxbatch.stages.task import Task
from kxbatch.training.session import ShardRows

RESULT = "result.json"
_KEPT = 2  # workers that a process keeps: that of the stage it trains, and that of the one before


@dataclass(frozen=True)
class TrainingSession:
    """Implements `training.session.Session`.

    Attributes:
        assignment: of the stage's workers.
        tasks: how to read each shard.
        surveys: file of each shard's survey, in the stage's folder.
        rows: rows of each shard that are trained on.
        identity: fingerprint of everything that decides the weights.
    """

    assignment: Assignment
    tasks: tuple[Mapping[str, Any], ...]
    surveys: tuple[str, ...]
    rows: tuple[int, ...]
    identity: str

    @property
    def name(self) -> str:
        """Of the stage."""
        return self.assignment.stage

    @property
    def base(self) -> Path:
        """Folder that relative paths start from."""
        return Path(self.assignment.base)

    @property
    def config(self) -> TrainingConfig:
        """How it is trained."""
        return self._worker().training

    @property
    def seed(self) -> int:
        """Of everything drawn at random."""
        return self.assignment.seed

    @property
    def threads(self) -> int:
        """Compute threads of one worker."""
        return self._worker().resources.threads

    @property
    def gpus(self) -> float:
        """GPUs of one worker."""
        return self._worker().resources.gpus

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return len(self.tasks)

    def surveyed(self, shard: int) -> ShardRows:
        """The usable rows of a shard."""
        found = read_arrays(self._worker().folder, self.surveys[shard])
        return ShardRows(found["rows"], found["sizes"], found["keys"])

    def table(self, shard: int) -> pa.Table:
        """`id` and the stage's columns of a whole shard."""
        return self._worker().training_table(self.tasks[shard])

    def task(self) -> Task:
        """The task; built once in a process."""
        return self._worker().task

    def folder(self) -> Folder:
        """Where state is kept while it trains; fenced."""
        return self._worker().folder.child(TRAINING)

    def override(self) -> dict[str, Any]:
        """Content of `deepspeed.file`."""
        return deepspeed_override(Path(self.assignment.base), self.config)

    def conclude(self, artifact: Artifact, facts: dict[str, Any]) -> None:
        """Publish the artifact's files, then the word that they are there; the driver writes the card."""
        folder = self._worker().folder
        files = publish_artifact(folder.child(ARTIFACT), artifact)
        digest = fingerprint({name: files[name] for name in artifact.deciding})
        result = {"identity": self.identity, "files": files, "digest": digest, "facts": facts}
        publish_sealed(folder.child(TRAINING), RESULT, result)

    def _worker(self) -> Worker:
        at = self.assignment
        key = fingerprint([at.run, at.token, at.output, at.stage, self.identity])
        if key not in _WORKERS:
            while len(_WORKERS) >= _KEPT:
                _WORKERS.pop(next(iter(_WORKERS)))
            _WORKERS[key] = Worker(self.assignment)
        return _WORKERS[key]


_WORKERS: dict[str, Worker] = {}


def deepspeed_override(base: Path, config: TrainingConfig) -> dict[str, Any]:
    """Content of `deepspeed.file`, empty where none is named.

    Raises:
        ConfigError: the file cannot be read.
    """
    name = config.deepspeed.file
    if name is None:
        return {}
    path = base / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: training.deepspeed.file cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: training.deepspeed.file must hold a JSON object")
    return found
