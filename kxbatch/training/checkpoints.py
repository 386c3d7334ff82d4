"""States of a training, on disk or object store.

A state is a folder `step-00001200` with one safetensors file a process (its share, see `Backend.share`) and `state.json`, which is
published last: a folder without it is what somebody left who died, and no state. Whole tensors by name lie there, so
any number of processes goes on from it. Nothing is pickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from kxbatch.data.documents import Document, FileName, publish_sealed, read_sealed
from kxbatch.data.receipts import Count, Number
from kxbatch.data.storage import Folder
from kxbatch.errors import FatalError

_STATE = "state.json"
_PREFIX = "step-"


class _Progress(Document):
    step: Count
    seconds: Number
    best: Number | None
    best_step: Count | None
    worse: Count
    rows: Count
    tokens: Count


class _State(_Progress):
    identity: str
    world: Count
    files: dict[FileName, str]


_SHAPE = TypeAdapter(_State)


@dataclass
class Progress:
    """How far a training has come.

    Attributes:
        step: steps done.
        seconds: time spent on them, over all runs.
        best: smallest validation loss, None before the first.
        best_step: when that was.
        worse: validations since.
        rows: rows that went through, over all processes.
        tokens: tokens that did, padding left out.
    """

    step: int = 0
    seconds: float = 0.0
    best: float | None = None
    best_step: int | None = None
    worse: int = 0
    rows: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class Found:
    """A state that may be gone on with."""

    progress: Progress
    world: int
    files: dict[str, str]


class Checkpoints:
    """The states of one training.

    Args:
        folder: where they lie.
        identity: of the training; states of another one are none.
    """

    def __init__(self, folder: Folder, identity: str) -> None:
        self._folder, self._identity = folder, identity

    def steps(self) -> list[int]:
        """Steps whose folders are there, whole or not, ascending."""
        names = self._folder.listing().folders
        return sorted(int(n.removeprefix(_PREFIX)) for n in names if n.removeprefix(_PREFIX).isdigit())

    def latest(self) -> tuple[Found | None, list[str]]:
        """The newest state that is whole, and what is wrong with newer ones. Reads every file of the ones it looks at."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                found = self.read(step)
            except FatalError as error:
                problems.append(str(error))
                continue
            if found is None:
                continue
            damaged = self._damaged(found)
            if not damaged:
                return found, problems
            problems.append(f"{self._at(step).path}: {damaged[0]} is damaged or gone; an older state is taken")
        return None, problems

    def readable(self) -> list[int]:
        """Steps of the states of this training, ascending; one whose document is damaged is none."""
        return [step for step in self.steps() if self._found(step) is not None]

    def is_sound(self, step: int) -> bool:
        """Whether a state is there with every share as it was saved."""
        found = self._found(step)
        return found is not None and not self._damaged(found)

    def _found(self, step: int) -> Found | None:
        try:
            return self.read(step)
        except FatalError:
            return None

    def _damaged(self, found: Found) -> list[str]:
        folder = self._at(found.progress.step)
        return [name for name, digest in found.files.items() if folder.file(name).digest() != digest]

    def read(self, step: int) -> Found | None:
        """One state's facts, None where it is none of this training."""
        folder = self._at(step)
        state = read_sealed(folder, _STATE, _SHAPE, f"remove {folder.path}")
        if state is None or state["identity"] != self._identity or state["step"] != step:
            return None
        progress = {name: state[name] for name in Progress.__dataclass_fields__}
        return Found(Progress(**progress), state["world"], state["files"])

    def tensors(self, found: Found) -> Tensors:
        """What a state holds, read when asked for."""
        return Tensors(self._at(found.progress.step), sorted(found.files))

    def save_share(self, step: int, rank: int, world: int, share: Iterable[tuple[str, Tensor]]) -> None:
        """Publish one process's share."""
        self._at(step).publish_bytes(share_name(rank, world), save_tensors({name: t.contiguous() for name, t in share}))

    def save(self, progress: Progress, world: int) -> None:
        """All shares are there: from here on it is a state."""
        folder = self._at(progress.step)
        files = {share_name(rank, world): folder.file(share_name(rank, world)).digest() for rank in range(world)}
        missing = [name for name, digest in files.items() if digest is None]
        if missing:
            raise FatalError(
                f"{folder.path}: {missing[0]} is not there although its process wrote it; job.output must be on a "
                "file system that every node sees under the same path, or on s3://"
            )
        publish_sealed(folder, _STATE, vars(progress) | {"identity": self._identity, "world": world, "files": files})

    def prune(self, keep: Iterable[int]) -> None:
        """Remove all but some; the document first, so that nothing half removed counts as a state."""
        kept = set(keep)
        for step in self.steps():
            if step not in kept:
                self._at(step).clear(_STATE)

    def _at(self, step: int) -> Folder:
        return self._folder.child(f"{_PREFIX}{step:08d}")


def share_name(rank: int, world: int) -> str:
    """File of one process's share."""
    return f"share-{rank:05d}-of-{world:05d}.safetensors"


class Tensors(Mapping[str, Tensor]):
    """Tensors of a state by name. From a disk each is read when it is asked for; from an object store all are, at once."""

    def __init__(self, folder: Folder, names: Iterable[str]) -> None:
        self._files: list[Any] = []
        self._where: dict[str, int] = {}
        for at, name in enumerate(names):
            file = folder.file(name)
            try:
                opened = load_tensors(folder.read(name)) if file.remote else safe_open(file.path, framework="pt")
            except SafetensorError as error:
                raise FatalError(f"{file}: no valid safetensors file ({error}); remove {folder.path}") from None
            self._files.append(opened)
            self._where |= dict.fromkeys(opened.keys(), at)

    def __getitem__(self, name: str) -> Tensor:
        file = self._files[self._where[name]]
        tensor: Tensor = file[name] if isinstance(file, dict) else file.get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._where)

    def __len__(self) -> int:
        return len(self._where)
