"""Training on Ray: Ray Train holds the processes together, DeepSpeed shares the model among them, Ray Data feeds them.

State lies where the job writes, in our own layout, so neither Ray's checkpoints nor its retries are used: a training that lost a
worker is started again from the newest state, as often as the stage's attempts allow.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch
from ray.data import ExecutionOptions
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from torch import nn

from kxbatch.errors import ConfigError, DataError, FatalError, KxbatchError, RetryableError
from kxbatch.spec.model import Resources
from kxbatch.training.backend import Backend
from kxbatch.training.deepspeed_backend import DeepSpeedBackend
from kxbatch.training.deepspeed_config import deepspeed_config
from kxbatch.training.feed import Piece, encoded, order_of, pieces
from kxbatch.training.loop import train
from kxbatch.training.optimizers import make_optimizer
from kxbatch.training.order import Order, Window
from kxbatch.training.session import Session, Status, Watcher

POSITION = "position.json"  # the micro-batch from which readers begin, as process 0 says after it took over a state
SETTINGS = "deepspeed.json"
_POLL = 0.25
_TIMEOUT = 1800  # seconds that processes wait for each other: one may be saving a large state


class _Mailbox:
    """Between process 0 and the driver, wherever they are."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._stop = False
        self._end: Status | KxbatchError | None = None

    def tell(self, facts: dict[str, Any]) -> None:
        self._lines.append(facts)

    def take(self) -> list[dict[str, Any]]:
        lines, self._lines = self._lines, []
        return lines

    def stop(self) -> None:
        self._stop = True

    def stopping(self) -> bool:
        return self._stop

    def end(self, how: Status | KxbatchError) -> None:
        if not isinstance(self._end, KxbatchError):
            self._end = how

    def ended(self) -> Status | KxbatchError | None:
        return self._end


class _Remote:
    """`Watcher` of process 0."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def tell(self, facts: dict[str, Any]) -> None:
        self._mailbox.tell.remote(facts)

    def stopping(self) -> bool:
        return bool(ray.get(self._mailbox.stopping.remote()))


def train_on_ray(session: Session, resources: Resources, watcher: Watcher) -> Status:
    """Train on the cluster this process is connected to.

    Args:
        session: what to train.
        resources: of each worker, and how often the training may lose one.
        watcher: told and asked in this process.

    Raises:
        KxbatchError: as `loop.train`.
        FatalError: workers died more often than `resources.attempts` allows.
    """
    for attempt in range(1, resources.attempts + 1):
        ended, error = _attempt(session, resources, watcher)
        if isinstance(ended, KxbatchError) and not isinstance(ended, RetryableError):
            raise ended
        if ended is not None and not isinstance(ended, KxbatchError) and error is None:
            return ended
        if watcher.stopping():
            return "interrupted"
        reason = _reason(ended, error)
        if attempt < resources.attempts:
            watcher.tell({"warning": f"{reason}; going on from the newest state (attempt {attempt + 1})"})
    raise FatalError(
        f"stage {session.name}: {reason}, {resources.attempts} times (resources.attempts); the newest state is kept, "
        "run the same command again to go on from it"
    )


def _reason(ended: Status | KxbatchError | None, error: Exception | None) -> str:
    if isinstance(ended, KxbatchError):
        return str(ended)
    words = str(error).strip().splitlines() if error else []
    died = next((line.strip() for line in words if "died" in line or "Error" in line), words[-1] if words else "")
    return f"a training worker failed ({died[:300]})" if died else "a training worker failed"


def _attempt(
    session: Session, resources: Resources, watcher: Watcher
) -> tuple[Status | KxbatchError | None, Exception | None]:
    """One start of all processes; how process 0 says it ended, and what Ray says."""
    mailbox = ray.remote(_Mailbox).options(num_cpus=0).remote()
    outcome: list[Exception | None] = []
    with tempfile.TemporaryDirectory(prefix="kxbatch-ray-train-", ignore_cleanup_errors=True) as place:
        thread = threading.Thread(
            target=_fit, args=(session, resources, mailbox, Path(place), outcome), name="train", daemon=True
        )
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
            _pass_on(mailbox, watcher)
            if watcher.stopping():
                mailbox.stop.remote()
        _pass_on(mailbox, watcher)
        ended = ray.get(mailbox.ended.remote())
    ray.kill(mailbox)
    return ended, outcome[0]


def _pass_on(mailbox: Any, watcher: Watcher) -> None:
    for line in ray.get(mailbox.take.remote()):
        watcher.tell(line)


def _fit(session: Session, resources: Resources, mailbox: Any, place: Path, outcome: list[Exception | None]) -> None:
    scaling = ray.train.ScalingConfig(
        num_workers=session.config.workers,
        use_gpu=resources.gpus > 0,
        resources_per_worker=_resources(resources),
    )
    trainer = TorchTrainer(
        partial(_work, session, mailbox),
        torch_config=TorchConfig(backend="nccl" if resources.gpus else "gloo", timeout_s=_TIMEOUT),
        scaling_config=scaling,
        run_config=ray.train.RunConfig(name=session.name, storage_path=str(place)),
        datasets={"shards": ray.data.range(session.shards)},
        dataset_config=_Feed(session, _reader_cpus(session, resources)),
    )
    try:
        trainer.fit()
        outcome.append(None)
    except Exception as error:
        outcome.append(error)


def _resources(resources: Resources) -> dict[str, float]:
    found = {"CPU": resources.cpus}
    if resources.gpus:
        found["GPU"] = resources.gpus
    if resources.memory is not None:
        found["memory"] = resources.memory
    return found


def _reader_cpus(session: Session, resources: Resources) -> float:
    """CPUs that a reader asks for: none where the workers take all there are, for then it would never be placed."""
    spare = ray.cluster_resources().get("CPU", 0.0) - session.config.workers * resources.cpus
    return 1.0 if spare >= 1 else 0.0


def _work(session: Session, mailbox: Any) -> None:
    """One process."""
    torch.set_num_threads(session.threads)
    rank = ray.train.get_context().get_world_rank()
    try:
        status = train(session, partial(_backend, session), partial(_tables, session), _Remote(mailbox))
    except (ConfigError, DataError, FatalError, RetryableError) as error:
        ray.get(mailbox.end.remote(_plain(error)))
        raise
    if rank == 0:
        ray.get(mailbox.end.remote(status))


def _plain(error: KxbatchError) -> KxbatchError:
    """The error as one of the four kinds, which every process can unpickle."""
    kind = next(kind for kind in (ConfigError, DataError, RetryableError, FatalError) if isinstance(error, kind))
    return kind(str(error))


def _backend(session: Session, model: nn.Module) -> Backend:
    device, config = get_device(), session.config
    override = session.override()
    optimizer = make_optimizer(model.to(device), config.optimizer)
    backend = DeepSpeedBackend(model, config, device, optimizer, override)
    if backend.rank == 0:
        session.folder().publish_json(SETTINGS, deepspeed_config(config, backend.world, device, override))
    return backend


def _tables(session: Session, order: Order, first: int, last: int, backend: Backend) -> Iterator[pa.Table]:
    """Encoded rows of this process, from Ray Data."""
    if backend.rank == 0:
        session.folder().publish_json(POSITION, {"first": first, "last": last})
    backend.barrier()
    shard = ray.train.get_dataset_shard("shards")
    for batch in shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        if batch.num_rows:
            yield batch


class _Feed(ray.train.DataConfig):  # type: ignore[misc]  # Ray is untyped
    """Gives every process its own stream: its micro-batches, in order, from where the state says."""

    def __init__(self, session: Session, cpus: float) -> None:
        super().__init__()
        self._session, self._cpus = session, cpus

    def configure(self, datasets: Any, world_size: int, *args: Any, **kwargs: Any) -> list[dict[str, Any]]:
        """One iterator a process; asked for once process 0 has taken over a state."""
        options = ExecutionOptions(preserve_order=True, verbose_progress=False)
        ray.data.DataContext.get_current().execution_options = options
        ray.data.DataContext.get_current().enable_progress_bars = False
        position = self._session.folder().read_json(POSITION)
        order = order_of(self._session)
        return [{"shards": self._stream(order, position, rank, world_size)} for rank in range(world_size)]

    def _stream(self, order: Order, position: dict[str, int], rank: int, world: int) -> Any:
        rows = [_row(piece) for piece in pieces(order, position["first"], position["last"], rank, world)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        return dataset.map_batches(
            partial(_encode, self._session, order), batch_size=1, batch_format="pyarrow", num_cpus=self._cpus
        ).iterator()


def _row(piece: Piece) -> dict[str, Any]:
    window = {f"window_{name}": value for name, value in vars(piece.window).items()}
    return {**{name: value for name, value in vars(piece).items() if name != "window"}, **window}


def _encode(session: Session, order: Order, batch: pa.Table) -> Iterator[pa.Table]:
    """A reader: one window for one process."""
    for row in batch.to_pylist():
        window = {name.removeprefix("window_"): row.pop(name) for name in list(row) if name.startswith("window_")}
        window["shards"] = tuple(window["shards"])
        yield from encoded(session, order, Piece(Window(**window), **row))
