"""Exact k-nearest-neighbour lists: of a corpus in itself, of two blocks in each other, of queries in a corpus.

Lists are the same bits for every cut into blocks, number of threads and precision of the first pass: whatever the first
pass cannot rule out is scored in float64, in an order of operations fixed by hand, and ties go to the smaller index.
"""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from llvmlite import binding
from numpy.typing import ArrayLike, NDArray

from kxbatch.kernels.knn.blocks import Block, read_block
from kxbatch.kernels.knn.compiled import expand
from kxbatch.kernels.knn.crew import Crew, crew_of
from kxbatch.kernels.knn.frame import CHUNK
from kxbatch.kernels.knn.neighbors import Metric, Neighbors, Precision, empty_lists
from kxbatch.kernels.knn.search import Lists, search_between, search_self

__all__ = ["knn_cross", "knn_graph", "knn_pair"]


def knn_graph(
    x: ArrayLike, k: int, *, metric: Metric = "cosine", threads: int = 1, precision: Precision = "auto"
) -> Neighbors:
    """The k nearest neighbours of each row among the other rows.

    A row is left out of its own list by index, not by rank: a copy of it is its neighbour. Ties go to the smaller index.

    Args:
        x: `[n, d]`, n >= 0; float32, or another real type that is converted to it first.
        k: neighbours a row, at least 1; lists are padded where n <= k.
        metric: `cosine` or `inner` (similarities, falling) or `euclidean` (distances, rising). Scores are float64 from the
            float32 vectors; a cosine is not clipped and may exceed 1 by a rounding.
        threads: number of threads.
        precision: of the first pass: `bf16`, `fp32`, or `auto` (bf16 where the CPU has instructions for it). The result
            does not depend on it.

    Returns:
        Lists `[n, k]`.

    Raises:
        ValueError: values that are not finite, zero vectors under the cosine (the first such row is named), or an
            argument out of range.
    """
    half = _check(k, threads, precision)
    block = read_block(x, metric, "x")
    with crew_of(threads) as crew:
        lists = search_self(block, k, metric, half, crew)
        return _neighbors(block, block, lists, metric, crew, same=True)


def knn_pair(
    a: ArrayLike,
    b: ArrayLike,
    k: int,
    *,
    metric: Metric,
    threads: int = 1,
    offset_a: int = 0,
    offset_b: int = 0,
    precision: Precision = "auto",
    floor_a: NDArray[np.float64] | None = None,
    floor_b: NDArray[np.float64] | None = None,
) -> tuple[Neighbors, Neighbors]:
    """The k nearest rows of b for each row of a, and of a for each row of b, in one pass over the pairs.

    Merged over all pairs of the blocks of a corpus, with the graph of each block, the lists equal `knn_graph` of the
    corpus bit for bit.

    Args:
        a: `[n, d]`, a block of a corpus.
        b: `[m, d]`, a block that shares no row index with a.
        k: neighbours a row, at least 1; lists are padded where the other block is smaller.
        metric: see `knn_graph`.
        threads: number of threads.
        offset_a: index of the first row of a in the corpus; indices in the result count from the corpus' first row.
        offset_b: likewise for b.
        precision: see `knn_graph`.
        floor_a: `[n]`, the k-th best score known of each row (-inf, or +inf for distances, where none is known). Only
            candidates at least as good are returned, others are padding.
        floor_b: `[m]`, likewise.

    Returns:
        Lists `[n, k]` with indices of b, and lists `[m, k]` with indices of a.

    Raises:
        ValueError: see `knn_graph`; different d; floors of another length.
    """
    half = _check(k, threads, precision)
    block_a, block_b = read_block(a, metric, "a"), read_block(b, metric, "b")
    _check_dimensions(block_a, block_b, "a and b")
    floors = _group_floors(block_a, floor_a, metric, "floor_a"), _group_floors(block_b, floor_b, metric, "floor_b")
    with crew_of(threads) as crew:
        of_a, of_b = search_between(block_a, block_b, k, metric, half, crew, floors)
        lists_a = _neighbors(block_a, block_b, of_a, metric, crew, offset=offset_b, floor=floor_a)
        return lists_a, _neighbors(block_b, block_a, of_b, metric, crew, offset=offset_a, floor=floor_b)


def knn_cross(
    queries: ArrayLike, corpus: ArrayLike, k: int, *, metric: Metric, threads: int = 1, precision: Precision = "auto"
) -> Neighbors:
    """The k nearest rows of a corpus for each query; nothing is left out.

    Args:
        queries: `[n, d]`.
        corpus: `[m, d]`.
        k: neighbours a query, at least 1; lists are padded where m < k.
        metric: see `knn_graph`.
        threads: number of threads.
        precision: see `knn_graph`.

    Returns:
        Lists `[n, k]` with indices of the corpus.

    Raises:
        ValueError: see `knn_graph`; different d.
    """
    half = _check(k, threads, precision)
    asked, searched = read_block(queries, metric, "queries"), read_block(corpus, metric, "corpus")
    _check_dimensions(asked, searched, "queries and corpus")
    with crew_of(threads) as crew:
        lists, _ = search_between(asked, searched, k, metric, half, crew, both=False)
        return _neighbors(asked, searched, lists, metric, crew)


def _check(k: int, threads: int, precision: str) -> bool:
    """Checks arguments; returns whether the first pass is to run in bfloat16."""
    if k < 1 or threads < 1:
        raise ValueError(f"k and threads must be at least 1, not {k} and {threads}")
    if precision not in get_args(Precision):
        raise ValueError(f"precision {precision!r}: use one of {', '.join(get_args(Precision))}")
    if precision != "auto":
        return precision == "bf16"
    features = binding.get_host_cpu_features()  # without the instructions a bfloat16 product is 5 to 80 times slower
    fast = features.get("avx512bf16", False) or features.get("amx-bf16", False)
    return bool(fast and torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]  # torch has no types here


def _check_dimensions(a: Block, b: Block, names: str) -> None:
    if a.x.shape[1] != b.x.shape[1]:
        raise ValueError(f"{names} must have the same dimension, not {a.x.shape[1]} and {b.x.shape[1]}")


def _group_floors(
    block: Block, floor: NDArray[np.float64] | None, metric: Metric, name: str
) -> NDArray[np.float64] | None:
    """The floor of each group, larger being better: the lowest of its rows."""
    if floor is None:
        return None
    if np.shape(floor) != (len(block.x),) or np.isnan(floor).any():
        raise ValueError(f"{name}: need one number a row, {len(block.x)} of them, none NaN")
    lowest = np.full(block.distinct, np.inf)
    np.minimum.at(lowest, block.groups.of_row, -floor if metric == "euclidean" else floor)
    return lowest


def _neighbors(
    block: Block,
    other: Block,
    lists: Lists,
    metric: Metric,
    crew: Crew,
    *,
    same: bool = False,
    offset: int = 0,
    floor: NDArray[np.float64] | None = None,
) -> Neighbors:
    """Lists of groups as lists of rows, in the user's terms."""
    scores, who = lists
    if not (block.groups.trivial and other.groups.trivial):
        scores, who = empty_lists(len(block.x), lists[0].shape[1])
        of_row, members, starts = block.groups.of_row, other.groups.members, other.groups.starts
        own = block.own_score if same else np.empty(0)

        def write(lo: int) -> None:
            hi = min(lo + CHUNK, len(block.x))
            expand(lo, hi, of_row, members, starts, *lists, own, scores, who)

        crew.map(write, range(0, len(block.x), CHUNK))
    if metric == "euclidean":
        scores = -scores
    if floor is not None:
        worse = scores > floor[:, None] if metric == "euclidean" else scores < floor[:, None]
        scores[worse] = np.inf if metric == "euclidean" else -np.inf
        who[worse] = -1
    if offset:
        who[who >= 0] += offset
    return Neighbors(who, scores)
