"""Training in this process, with plain torch: for the debugger, tests and small models."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import torch
from torch import nn

from kxbatch.training.backend import Backend
from kxbatch.training.feed import encoded, pieces
from kxbatch.training.loop import train
from kxbatch.training.optimizers import make_optimizer
from kxbatch.training.order import Order
from kxbatch.training.plain import PlainBackend
from kxbatch.training.refusals import refuse_in_one_process
from kxbatch.training.session import Session, Status, Watcher


def train_here(session: Session, watcher: Watcher) -> Status:
    """Train in this process.

    Raises:
        ConfigError: what is asked for needs several processes.
        KxbatchError: see `loop.train`.
    """
    refuse_in_one_process(session.config)
    torch.set_num_threads(session.threads)
    return train(session, partial(_backend, session), partial(_feed, session), watcher)


def _backend(session: Session, model: nn.Module) -> Backend:
    device = torch.device("cuda" if session.gpus and torch.cuda.is_available() else "cpu")
    config = session.config
    return PlainBackend(model, config, device, make_optimizer(model.to(device), config.optimizer))


def _feed(session: Session, order: Order, first: int, last: int, backend: Backend) -> Iterator[pa.Table]:
    for piece in pieces(order, first, last, backend.rank, backend.world):
        yield from encoded(session, order, piece)
