"""The loop: steps, validations, states, and what is left in the end. The same for plain torch and for DeepSpeed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor, nn

from kxbatch.errors import FatalError
from kxbatch.stages.task import Batch, LeavesLive, Task
from kxbatch.training.backend import Backend
from kxbatch.training.feed import (
    Prefetch,
    batches,
    moved,
    order_of,
    steps_of,
)
from kxbatch.training.history import History, Line
from kxbatch.training.memory import explained
from kxbatch.training.order import Order, generator
from kxbatch.training.schedule import rate_share
from kxbatch.training.session import Session, Status, Watcher
from kxbatch.training.states import States
from kxbatch.training.validation import validated, validation_batches

MakeBackend = Callable[[nn.Module], Backend]
MakeFeed = Callable[[Order, int, int, Backend], Iterator[pa.Table]]
_CONTROL = 1.0  # seconds between two looks at whether to stop or to save
_PUBLISH = 15.0  # seconds between two publications of the history


class Diverged(FatalError):
    """A loss or gradient that is no number."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts


def train(session: Session, make_backend: MakeBackend, make_feed: MakeFeed, watcher: Watcher) -> Status:
    """Train, from the newest state on; returns in every process.

    Args:
        session: rows, task and configuration.
        make_backend: what holds the model.
        make_feed: gives encoded rows of this process from one micro-batch up to another, in order.
        watcher: asked and told by process 0.

    Raises:
        Diverged: the loss is no number, and the configuration says to fail.
        DataError: no row to train on.
        FatalError: out of memory, disk full: the last state stays valid.
    """
    order = order_of(session)
    task = session.task()
    torch.manual_seed(_seed(session.seed, -1))
    with explained(session.config):
        backend = make_backend(task.model())
        return _Training(session, task, order, backend, make_feed, watcher).run()


class _Training:
    """One process's part in a training."""

    def __init__(
        self, session: Session, task: Task, order: Order, backend: Backend, make_feed: MakeFeed, watcher: Watcher
    ) -> None:
        self._session, self._config, self._task, self._order = session, session.config, task, order
        self._backend, self._make_feed, self._watcher = backend, make_feed, watcher
        self._steps, self._total = steps_of(session.config, order)
        self._states = States(session, backend, watcher)
        self._validation = validation_batches(session)
        self.progress = self._states.restore()
        self._history = History(session.folder(), self.progress.step) if backend.rank == 0 else None
        self._line = Line()
        self._losses: list[Tensor] = []
        self._norms: list[Tensor] = []
        self._counts = [0, 0, 0]
        self._clock = self._saved = self._published = time.monotonic()
        self._stride, self._since = 1, 0
        self._diverged_at: int | None = None
        self._exported: int | None = None

    def run(self) -> Status:
        """To the end, or until somebody asks to stop."""
        if self._backend.rank == 0:
            self._watcher.tell({"step": self.progress.step, "steps": self._steps, "begins": True})
        try:
            status = self._run()
        except Diverged as error:
            self._diverged_at = error.facts["step"]
            self._tell({"step": self._diverged_at, "diverged": True})
            if self._config.on_divergence == "fail":
                if self._history:
                    self._history.close()
                raise
            status = "diverged"
            self.progress = self._states.restore()
        if status == "stopped early":
            self._exported = self._states.take_best(self.progress)
        if status != "interrupted":
            self._finish(status)
        if self._history:
            self._history.close()
        return status

    def _run(self) -> Status:
        config, micro = self._config, self._config.micro_batches
        if self.progress.step == 0 and config.on_divergence == "record":
            self._save()
        first, last = self.progress.step * micro, self._steps * micro
        if first >= last or self._is_patience_out():  # somebody died before the end was published
            return "stopped early" if self._is_patience_out() else "trained"
        tables = self._make_feed(self._order, first, last, self._backend)
        feed = Prefetch(batches(self._session, self._order, tables))
        try:
            dealt = iter(feed)
            self._backend.model.train()
            for step in range(self.progress.step, self._steps):
                self._step(step, dealt)
                if self._look(step + 1):
                    return self._status
        finally:
            feed.close()
        return "trained"

    def _is_patience_out(self) -> bool:
        patience = self._config.early_stop
        return patience is not None and self.progress.worse >= patience

    def _step(self, step: int, dealt: Iterator[tuple[int, Batch]]) -> None:
        """One update of the weights. In the very last step micro-batches may be missing: others stand in, without a weight."""
        backend, micro = self._backend, self._config.micro_batches
        numbers = range(step * micro + backend.rank, (step + 1) * micro, backend.world)
        held = [self._next(dealt, wanted) for wanted in numbers]
        shares = self._shares([batch.weight if n < self._total else 0 for n, batch in zip(numbers, held, strict=True)])
        loss = torch.zeros((), device=backend.device)
        for number, batch, share in zip(numbers, held, shares, strict=True):
            mean = self._forward_backward(batch, number, share * micro, last=number == numbers[-1])
            loss += mean * share * micro
            if number < self._total:
                self._counts = [
                    a + b for a, b in zip(self._counts, (batch.rows, batch.tokens, batch.padding), strict=True)
                ]
        rate = self._config.optimizer.rate * rate_share(step, self._steps, self._config.schedule)
        self._norms.append(backend.step(rate))
        self._losses.append(loss / len(numbers))
        self._line.rate = rate

    def _next(self, dealt: Iterator[tuple[int, Batch]], wanted: int) -> Batch:
        number, batch = next(dealt)
        if number != wanted:
            raise FatalError(f"the feed gave micro-batch {number} instead of {wanted}; rows may have changed under it")
        return batch

    def _shares(self, weights: list[int]) -> list[float]:
        """What part of a step each micro-batch of this process is, by its weight among those of all processes.

        Were each of them the same part, a token would count for more the fewer its micro-batch has.
        """
        backend = self._backend
        own = torch.tensor(float(sum(weights)), dtype=torch.float64)  # on the CPU: one process waits for no GPU here
        total = round(float(backend.mean(own)) * backend.world)
        return [weight / total if total else 0.0 for weight in weights]

    def _forward_backward(self, batch: Batch, number: int, weight: float, *, last: bool) -> Tensor:
        torch.manual_seed(_seed(self._session.seed, number))  # dropout: the same for any number of processes
        with self._backend.forward_context():
            loss = self._task.loss(self._backend.model, moved(batch, self._backend.device))
        self._backend.backward(loss.mean * weight, last=last)
        return loss.mean.detach().float()

    def _look(self, done: int) -> bool:
        """What is due after a step; true where the training ends here, with `_status` saying how."""
        config, final = self._config, done == self._steps
        logs = done % config.log_every == 0 or final
        validates = final or (config.validate_every is not None and done % config.validate_every == 0)
        saves = final or done % config.checkpoint_every == 0
        self._since += 1
        if not (logs or validates or saves or self._since >= self._stride):
            return False
        stopping, late = self._gather(done)
        if logs or validates:
            self._tell(self._line.taken(done, self._epoch(done)))
        better = self._validate(done) if validates and config.validation_share else False
        ended = self._is_patience_out()
        if saves or late or stopping or ended or (better and (config.keep_best or config.early_stop)):
            self._save()
        self._status: Status = "stopped early" if ended else "interrupted"
        return ended or (stopping and not final)

    def _gather(self, done: int) -> tuple[bool, bool]:
        """Bring together what all processes know since the last look: losses, counts, whether to stop, whether to save.

        Raises:
            Diverged: a loss or the last gradient is no number.
        """
        backend, now = self._backend, time.monotonic()
        asked = backend.rank == 0 and self._watcher.stopping()
        due = now - self._saved > self._config.checkpoint_seconds
        own = [float(asked), float(due), now - self._clock, *map(float, self._counts)]
        each = [torch.stack(held).double().to(backend.device) for held in (self._losses, self._norms)]
        told = backend.mean(torch.cat([*each, torch.tensor(own, dtype=torch.float64, device=backend.device)])).tolist()
        steps = len(self._losses)
        values, norms, (stopping, late, seconds, *counts) = told[:steps], told[steps : 2 * steps], told[2 * steps :]
        self._check(done, values, norms)
        rows, tokens, padding = (round(count * backend.world) for count in counts)
        self._line.add(values, norms[-1], seconds, tokens, padding)
        progress = self.progress
        progress.step, progress.seconds = done, progress.seconds + seconds
        progress.rows, progress.tokens = progress.rows + rows, progress.tokens + tokens
        pace = seconds / len(values)
        self._stride, self._since = max(1, min(self._config.log_every, int(_CONTROL / max(pace, 1e-6)))), 0
        self._losses, self._norms, self._counts, self._clock = [], [], [0, 0, 0], now
        return stopping > 0, late > 0

    def _check(self, done: int, losses: list[float], norms: list[float]) -> None:
        """Every step since the last look, whichever of them was bad."""
        told = list(zip(losses, norms, strict=True))
        bad = next((at for at, pair in enumerate(told) if not all(map(math.isfinite, pair))), None)
        if bad is None:
            return
        step, (loss, norm) = done - len(losses) + bad + 1, told[bad]
        before = [round(earlier, 4) for earlier in (self._line.recent + losses[:bad])[-5:]]
        facts = {"step": step, "rate": self._line.rate, "gradient_norm": norm, "losses_before": before}
        what = f"the gradient's norm is {norm}" if math.isfinite(loss) else f"the loss is {loss}"
        kept = self._states.last_before(step)
        where = "no state was saved before it" if kept is None else f"the last good state is that of step {kept}"
        raise Diverged(
            f"stage {self._session.name}: step {step}: {what} (rate {self._line.rate:g}, losses before: "
            f"{', '.join(map(str, before)) or 'none'}); {where}. Lower training.optimizer.rate, add schedule.warmup "
            "or a clip, or use precision = 'fp32'",
            facts,
        )

    def _validate(self, done: int) -> bool:
        """Look at the rows held out; whether their loss is the best so far."""
        tables = list(self._validation())
        if not tables:
            return False
        facts, progress = validated(self._task, self._backend, tables), self.progress
        loss = facts["validation_loss"]
        better = progress.best is None or loss < progress.best
        if better:
            progress.best, progress.best_step, progress.worse = loss, done, 0
        else:
            progress.worse += 1
        self._tell({"step": done, **facts})
        self._clock = time.monotonic()  # the next pace is that of steps alone
        return better

    def _tell(self, line: dict[str, Any]) -> None:
        if self._history is None:
            return
        self._history.add(line)
        if time.monotonic() - self._published > _PUBLISH:
            self._history.publish()
            self._published = time.monotonic()
        self._watcher.tell(line | {"steps": self._steps, "trained_seconds": round(self.progress.seconds, 3)})

    def _epoch(self, done: int) -> float:
        """Passes over the rows so far."""
        return round(self.progress.rows / sum(self._order.rows), 4)

    def _save(self) -> None:
        self._states.save(self.progress, self._history)
        self._saved = self._clock = time.monotonic()

    def _finish(self, status: Status) -> None:
        """Consolidated weights, evaluations and the artifact; by process 0, on a model of its own."""
        with self._backend.averaged():
            weights = self._backend.weights()
        leaves = self._task if self._config.ema is not None and isinstance(self._task, LeavesLive) else None
        live = self._backend.weights() if leaves else None
        if weights is None or self._history is None:
            return
        model = self._task.model()
        model.load_state_dict(weights, strict=False)  # a tied parameter is there under its first name alone
        model.to(self._backend.device).eval()
        with torch.no_grad(), self._backend.forward_context():
            artifact = self._task.finish(model, weights, self._validation)
        if leaves is not None and live is not None:
            artifact.arrays |= leaves.live_files(live)
        curve = [line for line in self._history.lines if "warning" not in line]
        exported = self.progress.step if self._exported is None else self._exported
        facts = asdict(self.progress) | {"status": status, "steps": self._steps, "exported_step": exported}
        facts |= {"world": self._backend.world, "diverged_at": self._diverged_at}
        artifact.documents["training.json"] = {**facts, "history": curve, "architecture": self._task.describe()}
        self._history.publish()
        self._session.conclude(artifact, facts)


def _seed(seed: int, number: int) -> int:
    return int(generator(seed, number, 1).integers(2**63))
