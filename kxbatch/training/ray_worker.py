"""One process of a training on Ray."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.train
import torch
from ray.train.torch import get_device
from torch import nn

from kxbatch.errors import ConfigError, DataError, FatalError, KxbatchError, RetryableError
from kxbatch.training.backend import Backend
from kxbatch.training.deepspeed_backend import DeepSpeedBackend
from kxbatch.training.deepspeed_config import deepspeed_config
from kxbatch.training.loop import train
from kxbatch.training.mailbox import Remote
from kxbatch.training.optimizers import make_optimizer
from kxbatch.training.order import Order
from kxbatch.training.ray_feed import POSITION, SHARDS
from kxbatch.training.session import Session

SETTINGS = "deepspeed.json"


def work(session: Session, mailbox: Any) -> None:
    """One process."""
    torch.set_num_threads(session.threads)
    rank = ray.train.get_context().get_world_rank()
    try:
        status = train(session, partial(_backend, session), partial(_tables, session), Remote(mailbox))
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
    shard = ray.train.get_dataset_shard(SHARDS)
    for batch in shard.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=2):
        if batch.num_rows:
            yield batch
