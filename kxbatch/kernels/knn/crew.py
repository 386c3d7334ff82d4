"""Threads that work on parts of one problem, each with single-threaded matrix products."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

import torch
from threadpoolctl import threadpool_limits

T = TypeVar("T")
R = TypeVar("R")
Pair = tuple[int, int]


class Crew:
    """Runs functions on a fixed number of threads; compiled code and matrix products release the GIL."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Results of `work` on each item, in order."""
        return list(self._pool.map(work, items))

    def map_disjoint(self, work: Callable[[Pair], object], pairs: Sequence[Pair]) -> None:
        """Calls `work` on each pair of blocks, never on two that share a block at the same time.

        Args:
            work: may write the state of both blocks of its pair.
            pairs: in the order of preference.

        Raises:
            Exception: what `work` raised first; what had not begun then is not begun.
        """
        waiting, busy, changed = list(pairs), set[int](), threading.Condition()

        def take() -> Pair | None:
            with changed:
                while waiting:
                    pair = next((pair for pair in waiting if busy.isdisjoint(pair)), None)
                    if pair is not None:
                        waiting.remove(pair)
                        busy.update(pair)
                        return pair
                    changed.wait()
                return None

        def labour() -> None:
            while (pair := take()) is not None:
                try:
                    work(pair)
                finally:
                    with changed:
                        busy.difference_update(pair)
                        changed.notify_all()

        labourers = [self._pool.submit(labour) for _ in range(self.threads)]
        try:
            wait(labourers, return_when=FIRST_EXCEPTION)
        finally:  # after an error or an interrupt nothing more is begun
            with changed:
                waiting.clear()
                changed.notify_all()
        for labourer in labourers:
            labourer.result()

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()


@contextmanager
def crew_of(threads: int) -> Iterator[Crew]:
    """A crew, with the thread counts of torch and BLAS at 1 until the end.

    The counts belong to the process: searches may run in several processes at once, not in several threads of one.
    """
    before = torch.get_num_threads()
    crew = Crew(threads)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            torch.set_num_threads(1)
            yield crew
    finally:
        crew.close()
        torch.set_num_threads(before)
