"""Ray Data as the feed: one stream of encoded rows for each process of a training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pyarrow as pa
import ray
import ray.train
from ray.data import ExecutionOptions

from kxbatch.data.filesystems import start_from
from kxbatch.training.feed import Piece, encoded, order_of, pieces
from kxbatch.training.order import Order, Window
from kxbatch.training.session import Session

POSITION = "position.json"  # the micro-batches that are wanted, as process 0 says after it took over a state
_READERS = 2  # windows that are read ahead at once for one process; one where readers have no CPU of their own
SHARDS = "shards"  # name of the data set that Ray Train hands out


class RayFeed(ray.train.DataConfig):  # type: ignore[misc]  # Ray is untyped
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
        return [{SHARDS: self._stream(order, position, rank, world_size)} for rank in range(world_size)]

    def _stream(self, order: Order, position: dict[str, int], rank: int, world: int) -> Any:
        rows = [_row(piece) for piece in pieces(order, position["first"], position["last"], rank, world)]
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
        return dataset.map_batches(
            partial(_encode, self._session, order),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=self._cpus,
            concurrency=_READERS if self._cpus else 1,
        ).iterator()


def _row(piece: Piece) -> dict[str, Any]:
    window = {f"window_{name}": value for name, value in vars(piece.window).items()}
    return {**{name: value for name, value in vars(piece).items() if name != "window"}, **window}


def _encode(session: Session, order: Order, batch: pa.Table) -> Iterator[pa.Table]:
    """A reader: one window for one process."""
    start_from(session.base)  # a task of Ray Data works where the cluster was started
    for row in batch.to_pylist():
        window = {name.removeprefix("window_"): row.pop(name) for name in list(row) if name.startswith("window_")}
        window["shards"] = tuple(window["shards"])
        yield from encoded(session, order, Piece(Window(**window), **row))
