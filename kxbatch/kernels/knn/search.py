"""The exact search: tiles of upper bounds, a filter on them, exact scores of what is left."""

from __future__ import annotations

import math
import threading

import numpy as np
import torch
from numpy.typing import NDArray

from kxbatch.kernels.knn.blocks import Block
from kxbatch.kernels.knn.compiled import (
    GROUP,
    Candidates,
    Tile,
    apply_floors,
    filter_tile,
    new_candidates,
    new_scratch,
    rerank,
    seed_floors,
)
from kxbatch.kernels.knn.crew import Crew, Pair
from kxbatch.kernels.knn.frame import CHUNK, choose_frame
from kxbatch.kernels.knn.neighbors import Metric, empty_lists
from kxbatch.kernels.knn.order import locality_labels
from kxbatch.kernels.knn.pack import Packed, pack

TILE = 1024  # rows and columns of a tile, 2 MiB in bfloat16
PART = 4096  # rows of a part; two parts are one task

Lists = tuple[NDArray[np.float64], NDArray[np.int64]]
Span = tuple[int, int]


def search_self(block: Block, k: int, metric: Metric, half: bool, crew: Crew) -> Lists:
    """Lists of the distinct rows of a block among themselves, a row not being its own neighbour.

    Args:
        block: the rows.
        k: neighbours wanted, at least 1.
        metric: the score.
        half: first pass in bfloat16, else float32.
        crew: does the work.

    Returns:
        Scores (larger is better) and groups, `[distinct, k]`, best first.
    """
    lists = empty_lists(block.distinct, k)
    available = block.distinct - 1
    if available > 0:
        sweep = _prepare((block,), min(k, available), available, metric, half, crew)
        parts = _parts(sweep.packed.spans[0], crew.threads)
        crew.map(sweep.open, [tile for part in parts for tile in _cut(*part, TILE)])
        pairs = [(p, p + gap) for gap in range(len(parts)) for p in range(len(parts) - gap)]
        crew.map_disjoint(lambda pair: sweep.sweep(parts[pair[0]], parts[pair[1]]), pairs)
        sweep.finish(0, lists, crew)
    return lists


def search_between(
    a: Block,
    b: Block,
    k: int,
    metric: Metric,
    half: bool,
    crew: Crew,
    floors: tuple[NDArray[np.float64] | None, NDArray[np.float64] | None] = (None, None),
    both: bool = True,
) -> tuple[Lists, Lists]:
    """Lists of the distinct rows of a in b, and of b in a.

    Args:
        a: rows.
        b: other rows.
        k: neighbours wanted, at least 1.
        metric: the score.
        half: first pass in bfloat16, else float32.
        crew: does the work.
        floors: per distinct row, scores below which no candidate is wanted.
        both: also search for the rows of b; else their lists stay empty.

    Returns:
        For a and b: scores (larger is better) and groups of the other, `[distinct, k]`, best first.
    """
    lists = empty_lists(a.distinct, k), empty_lists(b.distinct, k)
    if not a.distinct or not b.distinct:
        return lists
    available = max(a.distinct, b.distinct) if both else b.distinct
    sweep = _prepare((a, b), min(k, available), available, metric, half, crew)
    spans = sweep.packed.spans
    if not both:
        sweep.candidates.floor[spans[1][0] :] = sweep.candidates.flip  # which no key reaches
    for which in range(1 + both):
        floor = floors[which]
        if floor is None:
            crew.map(lambda tile: sweep.seed(*tile), sweep.matched(which))
        else:
            apply_floors(spans[which][0], spans[which][1], sweep.packed.rows, sweep.candidates, floor)
    rows, columns = _parts(spans[0], crew.threads), _parts(spans[1], crew.threads)
    if both:
        far = sorted(np.ndindex(len(rows), len(columns)), key=lambda at: abs(at[0] * len(columns) - at[1] * len(rows)))
        pairs: list[Pair] = [(p, len(rows) + q) for p, q in far]
        crew.map_disjoint(lambda pair: sweep.sweep(rows[pair[0]], columns[pair[1] - len(rows)]), pairs)
    else:
        crew.map(lambda part: sweep.sweep(part, (spans[1][0], spans[1][2])), rows)
    for which in range(1 + both):
        sweep.finish(which, lists[which], crew)
    return lists


def _cut(start: int, end: int, size: int) -> list[Span]:
    return [(at, min(at + size, end)) for at in range(start, end, size)]


def _parts(span: tuple[int, int, int], threads: int) -> list[Span]:
    """A block cut into parts: about `PART` rows, and enough parts to keep the threads busy."""
    start, _, end = span
    size = (end - start) / max(round((end - start) / PART), 2 * threads if threads > 1 else 1)
    step = TILE if size > TILE else GROUP
    return _cut(start, end, math.ceil(size / step) * step)


def _prepare(blocks: tuple[Block, ...], k: int, available: int, metric: Metric, half: bool, crew: Crew) -> _Sweep:
    frame = choose_frame(blocks, k, metric)
    packed = pack(blocks, frame, locality_labels(blocks, frame, half, crew), half, crew)
    candidates = new_candidates(k, available, packed.allowance, half)
    for _, stop, end in packed.spans:
        candidates.floor[stop:end] = candidates.flip
    return _Sweep(packed, candidates)


class _Own(threading.local):
    """What a thread has for itself: scratch, and tiles by their shape in one buffer."""

    def __init__(self, candidates: Candidates) -> None:
        self.scratch = new_scratch(candidates)
        self._buffer = np.empty(TILE * TILE, candidates.floor.dtype)
        self._tiles: dict[tuple[int, int], tuple[Tile, torch.Tensor]] = {}

    def tile(self, height: int, width: int) -> tuple[Tile, torch.Tensor]:
        """A tile as keys for the filter and as floats for the product."""
        if (height, width) not in self._tiles:
            flat = self._buffer[: height * width]
            floats = torch.from_numpy(flat).view(torch.bfloat16 if flat.itemsize == 2 else torch.float32)
            self._tiles[height, width] = flat.reshape(height, width // GROUP, GROUP), floats.view(height, width)
        return self._tiles[height, width]


class _Sweep:
    """Tiles of one search, and what is learned from them."""

    def __init__(self, packed: Packed, candidates: Candidates) -> None:
        self.packed = packed
        self.candidates = candidates
        self._own = _Own(candidates)

    def multiply(self, left: torch.Tensor, right: torch.Tensor) -> Tile:
        """Upper bounds of the levels of some rows and columns, in a buffer of this thread."""
        tile, floats = self._own.tile(len(left), right.shape[1])
        if floats.dtype == torch.bfloat16:
            torch.mm(left, right, out=floats)
        else:
            np.matmul(left.numpy(), right.numpy(), out=floats.numpy())
        return tile

    def left(self, rows: Span) -> torch.Tensor:
        return self.packed.left[rows[0] : rows[1]]

    def right(self, columns: Span) -> torch.Tensor:
        return self.packed.right[columns[0] : columns[1]].t()

    def filter(self, tile: Tile, i0: int, j0: int) -> None:
        filter_tile(tile, i0, j0, self.packed.rows, self.candidates, self._own.scratch)

    def open(self, rows: Span) -> None:
        """First floors and candidates: a tile of rows by themselves."""
        tile = self.multiply(self.left(rows), self.right(rows))
        seed_floors(tile, rows[0], rows[0], self.candidates.k + 1, self.candidates)
        self.filter(tile, rows[0], rows[0])

    def seed(self, rows: Span, columns: Span) -> None:
        """First floors of rows, from some columns of another block."""
        tile = self.multiply(self.left(rows), self.right(columns))
        seed_floors(tile, rows[0], columns[0], self.candidates.k, self.candidates)

    def sweep(self, rows: Span, columns: Span) -> None:
        """Offers the pairs of two parts, or of the tiles of one part but for the diagonal, to both rows."""
        lefts = [(span[0], self.left(span)) for span in _cut(*rows, TILE)]
        for span in _cut(*columns, TILE):
            right = self.right(span)
            for i0, left in lefts:
                if i0 < span[0]:
                    self.filter(self.multiply(left, right), i0, span[0])

    def matched(self, which: int) -> list[tuple[Span, Span]]:
        """For each tile of rows of a block the columns of the other block that are likely the nearest."""
        start, stop, end = self.packed.spans[which]
        other_start, _, other_end = self.packed.spans[1 - which]
        pairs = []
        for lo, hi in _cut(start, end, TILE):
            label = self.packed.labels[which][(lo + min(hi, stop)) // 2 - start]
            middle = other_start + int(np.searchsorted(self.packed.labels[1 - which], label)) // GROUP * GROUP
            first = max(other_start, min(middle, other_end - TILE))
            pairs.append(((lo, hi), (first, min(first + TILE, other_end))))
        return pairs

    def finish(self, which: int, lists: Lists, crew: Crew) -> None:
        """Writes the lists of a block."""

        def write(span: Span) -> None:
            rerank(*span, self.packed.rows, self.candidates, self._own.scratch, *lists)

        start, stop, _ = self.packed.spans[which]
        crew.map(write, _cut(start, stop, CHUNK))
