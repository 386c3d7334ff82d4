"""Rows in their order, as batches: read, tokenised and put together while the model works.

The same function deals the rows of a window out in a thread of this process and in Ray Data's readers.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from kxbatch.data.row_draws import held_out
from kxbatch.errors import DataError
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.task import KEY, Batch
from kxbatch.training.order import Order, Window, deal
from kxbatch.training.session import Session, ShardRows

if TYPE_CHECKING:
    import torch
    from torch import Tensor

MICRO = "micro"  # int64 column: which micro-batch an encoded row belongs to
_ENCODED_ROWS = 2048  # about so many rows are encoded at a time
_AHEAD = 4  # batches that are ready before they are asked for


@dataclass(frozen=True)
class Piece:
    """Micro-batches of one window for one process.

    Attributes:
        window: which one.
        first: the first micro-batch wanted, counted through all epochs.
        last: the first one no longer wanted.
        rank: whose they are.
        world: of how many; micro-batch j belongs to rank j mod world.
    """

    window: Window
    first: int
    last: int
    rank: int
    world: int


def training_rows(session: Session, shard: int, *, held: bool = False) -> ShardRows:
    """Rows of a shard for training, or those held out for validation."""
    found = session.surveyed(shard)
    mask = held_out(found.keys, session.config.validation_share) == held
    return ShardRows(found.rows[mask], found.sizes[mask], found.keys[mask])


def order_of(session: Session) -> Order:
    """The order of a session's rows.

    Raises:
        DataError: there is none to train on.
    """
    config = session.config
    if not sum(session.rows):
        raise DataError(
            f"stage {session.name}: no row to train on: every row was set aside or held out; "
            "`kxbatch quarantine show` tells why, training.validation_share how many are held out"
        )
    step_rows = config.batch_rows if config.sort_within == "step" else None
    return Order(session.seed, session.rows, config.rows_at_once, config.shuffle_rows, step_rows)


def steps_of(config: TrainingConfig, order: Order) -> tuple[int, int]:
    """Steps of the whole training, and the number of its micro-batches; the last step may lack some."""
    limits = [] if config.steps is None else [config.steps * config.micro_batches]
    if config.epochs is not None or not limits:
        limits.append(order.micro_batches(config.epochs or 1.0))
    return -(-min(limits) // config.micro_batches), min(limits)


def encoded(session: Session, order: Order, piece: Piece) -> Iterator[pa.Table]:
    """Encoded rows of a piece, micro-batch after micro-batch, with the columns `KEY` and `MICRO`."""
    window, task = piece.window, session.task()
    chosen = [training_rows(session, shard) for shard in window.shards]
    tables = [session.table(s).take(pa.array(c.rows)) for s, c in zip(window.shards, chosen, strict=True)]
    rows = pa.concat_tables(tables).combine_chunks()
    keys = np.concatenate([c.keys for c in chosen])
    batches = deal(order, window, np.concatenate([c.sizes for c in chosen]))
    mine = [
        (number, places)
        for number, places in enumerate(batches, window.first)
        if piece.first <= number < piece.last and number % piece.world == piece.rank
    ]
    while mine:
        some, held = [], 0
        while mine and held < _ENCODED_ROWS:
            some.append(mine.pop(0))
            held += len(some[-1][1])
        places = np.concatenate([p for _, p in some])
        micro = np.concatenate([np.full(len(p), number) for number, p in some])
        table = task.encode(rows.take(pa.array(places)))
        yield table.append_column(KEY, pa.array(keys[places])).append_column(MICRO, pa.array(micro))


def micro_batches(tables: Iterator[pa.Table]) -> Iterator[tuple[int, pa.Table]]:
    """Tables of encoded rows cut into micro-batches, however they were put together."""
    held: list[pa.Table] = []
    at = -1
    for table in tables:
        numbers = table.column(MICRO).to_numpy()
        edges = np.flatnonzero(np.diff(numbers)) + 1
        for start, end in zip([0, *edges], [*edges, len(numbers)], strict=True):
            if end == start:
                continue
            if held and numbers[start] != at:
                yield at, pa.concat_tables(held)
                held = []
            at = int(numbers[start])
            held.append(table.slice(start, end - start))
    if held:
        yield at, pa.concat_tables(held)


def pieces(order: Order, first: int, last: int, rank: int, world: int) -> Iterator[Piece]:
    """What a process has to read for the micro-batches from `first` up to `last`."""
    for window in order.windows(first, last):
        yield Piece(window, first, last, rank, world)


def batches(session: Session, order: Order, tables: Iterator[pa.Table]) -> Iterator[tuple[int, Batch]]:
    """Batches for the model, with their numbers."""
    task, epochs = session.task(), _EpochOf(order)
    for number, rows in micro_batches(tables):
        yield number, task.collate(rows, epochs.of(number))


def moved(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """A batch's tensors where the model is."""
    return {name: t.to(device, non_blocking=True) for name, t in batch.tensors.items()}


class _EpochOf:
    """Epoch of a micro-batch, asked in rising order."""

    def __init__(self, order: Order) -> None:
        self._epochs = order.epochs()
        self._epoch, self._end = -1, 0

    def of(self, number: int) -> int:
        while number >= self._end:
            windows = next(self._epochs)
            self._epoch, self._end = self._epoch + 1, windows[-1].first + windows[-1].micro_batches
        return self._epoch


class Prefetch:
    """Runs an iterator in a thread, a few items ahead; an error in it is raised where the item is asked for."""

    def __init__(self, items: Iterator[Any]) -> None:
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(items,), name="feed", daemon=True)
        self._thread.start()

    def _work(self, items: Iterator[Any]) -> None:
        try:
            for item in items:
                if not self._put("item", item):
                    return
            self._put("end", None)
        except BaseException as error:
            self._put("error", error)

    def _put(self, kind: str, value: Any) -> bool:
        while not self._over.is_set():
            try:
                self._queue.put((kind, value), timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def __iter__(self) -> Iterator[Any]:
        while True:
            kind, value = self._queue.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            yield value

    def close(self) -> None:
        """Nothing more is wanted."""
        self._over.set()
        self._thread.join()
