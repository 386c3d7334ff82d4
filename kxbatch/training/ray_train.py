"""Training on Ray: Ray Train holds the processes together, DeepSpeed shares the model among them, Ray Data feeds them.

State lies where the job writes, in our own layout, so neither Ray's checkpoints nor its retries are used: a training that lost a
worker is started again from the newest state, as often as the stage's attempts allow.
"""

from __future__ import annotations

import re
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from kxbatch.data.filesystems import start_from
from kxbatch.errors import FatalError, KxbatchError, RetryableError
from kxbatch.spec.model import Resources
from kxbatch.training.mailbox import Mailbox
from kxbatch.training.ray_feed import SHARDS, RayFeed
from kxbatch.training.session import Session, Status, Watcher

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_POLL = 0.25
_TIMEOUT = 1800  # seconds that processes wait for each other: one may be saving a large state


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
    words = [_COLOURS.sub("", line).strip() for line in str(error).splitlines()] if error else []
    telling = [line for line in words if line and ("Error:" in line or "died" in line)]
    return f"a training worker failed ({telling[-1][:300]})" if telling else "a training worker died"


def _attempt(
    session: Session, resources: Resources, watcher: Watcher
) -> tuple[Status | KxbatchError | None, Exception | None]:
    """One start of all processes; how process 0 says it ended, and what Ray says."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    mailbox = ray.remote(Mailbox).options(num_cpus=0, scheduling_strategy=here).remote()
    outcome: list[Exception | None] = []
    begun, deadline = False, time.monotonic() + resources.startup_timeout
    with tempfile.TemporaryDirectory(prefix="kxbatch-ray-train-", ignore_cleanup_errors=True) as place:
        thread = threading.Thread(
            target=_fit, args=(session, resources, mailbox, Path(place), outcome), name="train", daemon=True
        )
        thread.start()
        while thread.is_alive():
            thread.join(_POLL)
            begun = _pass_on(mailbox, watcher) or begun
            if watcher.stopping() and not begun:
                return "interrupted", None
            if watcher.stopping():
                mailbox.stop.remote()
            if not begun and time.monotonic() > deadline:
                raise FatalError(
                    f"stage {session.name}: {session.config.workers} training workers did not start within "
                    f"{resources.startup_timeout:g} s (resources.startup_timeout); others may use the cluster"
                )
        _pass_on(mailbox, watcher)
        ended = ray.get(mailbox.ended.remote())
    ray.kill(mailbox)
    return ended, outcome[0]


def _pass_on(mailbox: Any, watcher: Watcher) -> bool:
    """Tell what process 0 told; whether that was anything."""
    lines = ray.get(mailbox.take.remote())
    for line in lines:
        watcher.tell(line)
    return bool(lines)


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
        datasets={SHARDS: ray.data.range(session.shards)},
        dataset_config=RayFeed(session, _reader_cpus(session, resources)),
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
    """One process; what it needs is loaded there and not in Ray's controller, which unpickles this function, too."""
    from kxbatch.training.ray_worker import work

    start_from(session.base)  # Ray Train moved to a folder of its own
    work(session, mailbox)
