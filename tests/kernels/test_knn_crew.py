"""Pairs of blocks are worked on by several threads, but no block by two at a time."""

from __future__ import annotations

import itertools
import threading
import time

import numpy as np
import pytest

from kxbatch.kernels.knn.crew import crew_of


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_each_pair_once_and_no_block_twice_at_a_time(threads: int) -> None:
    pairs = list(itertools.combinations_with_replacement(range(7), 2))
    rng, lock = np.random.default_rng(0), threading.Lock()
    naps = {pair: float(nap) for pair, nap in zip(pairs, rng.uniform(0, 2e-3, len(pairs)), strict=True)}
    busy, clashes, seen, running = set[int](), list[tuple[int, int]](), list[tuple[int, int]](), [0]
    together = threading.Event()

    def work(pair: tuple[int, int]) -> None:
        with lock:
            clashes.extend([pair] if busy & set(pair) else [])
            busy.update(pair)
            seen.append(pair)
            running[0] += 1
            if running[0] > 1 or threads == 1:
                together.set()
        assert together.wait(60)  # the first one waits for company, however busy the machine is
        time.sleep(naps[pair])
        with lock:
            running[0] -= 1
            busy.difference_update(pair)

    with crew_of(threads) as crew:
        crew.map_disjoint(work, pairs)
    assert sorted(seen) == pairs
    assert not clashes


def test_error_ends_the_work() -> None:
    seen = []

    def work(pair: tuple[int, int]) -> None:
        seen.append(pair)
        time.sleep(1e-3)
        if pair == (2, 3):
            raise ZeroDivisionError("at 2, 3")

    pairs = [(2 * i, 2 * i + 1) for i in range(1000)]
    with pytest.raises(ZeroDivisionError, match="at 2, 3"), crew_of(2) as crew:
        crew.map_disjoint(work, pairs)
    assert len(seen) < 1000
