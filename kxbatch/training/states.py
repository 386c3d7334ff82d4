"""Saving a state and taking one over, in all processes together: each writes its share, and process 0 says which state counts."""

from __future__ import annotations

import torch

from kxbatch.errors import FatalError
from kxbatch.training.backend import Backend
from kxbatch.training.checkpoints import Checkpoints, Progress
from kxbatch.training.history import History
from kxbatch.training.session import Session, Watcher


class States:
    """The states of a training, for a process in it. All must call `save`, `restore` and `take_best` together.

    Args:
        session: whose states.
        backend: what gives and takes them.
        watcher: told what is damaged, by process 0.
    """

    def __init__(self, session: Session, backend: Backend, watcher: Watcher) -> None:
        self._name, self._config = session.name, session.config
        self._backend, self._watcher = backend, watcher
        self._checkpoints = Checkpoints(session.folder(), session.identity)

    def save(self, progress: Progress, history: History | None) -> None:
        """Save the state of now, with the history up to it, which process 0 has; old states go."""
        backend = self._backend
        self._checkpoints.save_share(progress.step, backend.rank, backend.world, backend.share())
        backend.barrier()
        if history is not None:
            history.publish()
            self._checkpoints.save(progress, backend.world)
            best = [progress.best_step] if progress.best_step is not None and self._keeps_best() else []
            self._checkpoints.prune([*self._checkpoints.readable()[-self._config.keep_last :], *best])

    def _keeps_best(self) -> bool:
        return self._config.keep_best or self._config.early_stop is not None

    def last_before(self, step: int) -> int | None:
        """The step of the newest state before one, as far as a process can tell alone."""
        return max((kept for kept in self._checkpoints.readable() if kept < step), default=None)

    def restore(self) -> Progress:
        """Take over the newest whole state; where there is none, the training begins."""
        chosen = -1
        if self._backend.rank == 0:
            found, problems = self._checkpoints.latest()
            chosen = found.progress.step if found else -1
            if found:  # what is newer is damaged: it must not take the place of what is saved from here on
                self._checkpoints.prune(step for step in self._checkpoints.steps() if step <= chosen)
            elif self._checkpoints.steps():
                problems.append("the states that are there are of other settings or rows; this training replaces them")
            for problem in problems:
                self._watcher.tell({"warning": problem})
        step = self._agreed(chosen)
        return self._load(step) if step >= 0 else Progress()

    def take_best(self, progress: Progress) -> int:
        """Take the weights of the best validation, or keep those of now where its state is damaged; the step they are of."""
        best, sound = progress.best_step or 0, True
        if self._backend.rank == 0:
            sound = self._checkpoints.is_sound(best)
            if not sound:
                now = f"the weights of step {progress.step} are exported"
                self._watcher.tell({"warning": f"the best state, of step {best}, is damaged or gone; {now}"})
        if not self._agreed(int(sound)):
            return progress.step
        self._load(best)
        return best

    def _agreed(self, number: int) -> int:
        """What process 0 says, in all processes."""
        own = [float(number) if self._backend.rank == 0 else 0.0]
        said = self._backend.mean(torch.tensor(own, dtype=torch.float64, device=self._backend.device))
        return round(said.item() * self._backend.world)

    def _load(self, step: int) -> Progress:
        found = self._checkpoints.read(step)
        if found is None:
            raise FatalError(f"stage {self._name}: the state of step {step} is gone; run the same command again")
        self._backend.load(self._checkpoints.tensors(found))
        return found.progress
