"""The order in which rows are trained on: a function of the seed and the epoch alone.

An epoch visits the shards in a random order. Consecutive shards form *windows* of at least `shuffle_rows` rows; the rows of a
window are shuffled. Then either the window is sorted by size, cut into micro-batches, and the micro-batches are shuffled:
hardly any padding, but the rows of a micro-batch are all of one size. Or it is cut into steps, each a random draw, and
only the rows of a step are sorted by size and cut into micro-batches. Every row is in exactly one micro-batch of an epoch.
Micro-batches are numbered through all epochs; a step takes the next `micro_batches` of them,
whatever the number of processes, so the number of the step says exactly what has been consumed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


def generator(*numbers: int) -> np.random.Generator:
    """A generator of its own for each tuple of numbers, the same on every machine."""
    digest = hashlib.sha256(",".join(map(str, numbers)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "little")))


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together.

    Attributes:
        epoch: number of the epoch.
        number: of the window in it.
        shards: whose rows they are, in this order.
        first: number of its first micro-batch, counted through all epochs.
        micro_batches: how many it has.
    """

    epoch: int
    number: int
    shards: tuple[int, ...]
    first: int
    micro_batches: int


@dataclass(frozen=True)
class Order:
    """The order of all rows of all epochs.

    Attributes:
        seed: of the job.
        rows: rows of each shard.
        micro_rows: rows of a micro-batch; the last one of a window may have fewer.
        shuffle_rows: least rows of a window, as long as there are shards.
        step_rows: rows that are sorted together, a multiple of `micro_rows`; absent: those of a window.
    """

    seed: int
    rows: tuple[int, ...]
    micro_rows: int
    shuffle_rows: int
    step_rows: int | None = None

    def epochs(self) -> Iterator[list[Window]]:
        """The windows of each epoch, without end."""
        first, epoch = 0, 0
        while True:
            windows = self._windows(epoch, first)
            yield windows
            first, epoch = first + sum(window.micro_batches for window in windows), epoch + 1

    def windows(self, first: int, last: int) -> Iterator[Window]:
        """The windows that hold the micro-batches from `first` up to, but not including, `last`."""
        for windows in self.epochs():
            for window in windows:
                if window.first >= last:
                    return
                if window.first + window.micro_batches > first:
                    yield window

    def micro_batches(self, epochs: float) -> int:
        """Micro-batches of so many passes over the rows; at least one."""
        total, left = 0, epochs
        for windows in self.epochs():
            count = sum(window.micro_batches for window in windows)
            total += round(count * min(1.0, left))
            left -= 1.0
            if left <= 1e-9:
                break
        return max(1, total)

    def _windows(self, epoch: int, first: int) -> list[Window]:
        shards = [int(s) for s in generator(self.seed, epoch).permutation(len(self.rows)) if self.rows[s]]
        found: list[Window] = []
        members: list[int] = []
        held = 0
        for at, shard in enumerate(shards):
            members.append(shard)
            held += self.rows[shard]
            if held >= self.shuffle_rows or at == len(shards) - 1:
                count = -(-held // self.micro_rows)
                found.append(Window(epoch, len(found), tuple(members), first, count))
                first, members, held = first + count, [], 0
        return found


def deal(order: Order, window: Window, sizes: npt.NDArray[np.int32]) -> list[npt.NDArray[np.int64]]:
    """The micro-batches of a window.

    Args:
        order: gives the seed.
        window: which one.
        sizes: int32, size of every row of the window, shard after shard.

    Returns:
        Places in `sizes`, int64, one array for each micro-batch.
    """
    draw = generator(order.seed, window.epoch, window.number)
    shuffled = draw.permutation(len(sizes))
    if order.step_rows is not None:
        steps = _cut(shuffled, order.step_rows)
        return [micro for step in steps for micro in _cut(_by_size(step, sizes), order.micro_rows)]
    cut = _cut(_by_size(shuffled, sizes), order.micro_rows)
    return [cut[place] for place in draw.permutation(len(cut))]


def _by_size(places: npt.NDArray[np.int64], sizes: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    return places[np.argsort(sizes[places], kind="stable")]


def _cut(places: npt.NDArray[np.int64], rows: int) -> list[npt.NDArray[np.int64]]:
    return [places[at : at + rows] for at in range(0, len(places), rows)]
