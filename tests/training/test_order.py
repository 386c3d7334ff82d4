"""Every row exactly once an epoch, for any number of processes, from any step on: properties of the order alone."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.training.feed import pieces
from kxbatch.training.order import Order, Window, deal

orders = st.builds(
    Order,
    seed=st.integers(-(2**40), 2**40),
    rows=st.lists(st.integers(0, 40), min_size=1, max_size=8).filter(any).map(tuple),
    micro_rows=st.integers(1, 9),
    shuffle_rows=st.integers(1, 90),
)
orders = orders.flatmap(  # sorted within windows, or within steps of some micro-batches
    lambda order: st.sampled_from([None, 1, 3]).map(
        lambda count: replace(order, step_rows=None if count is None else count * order.micro_rows)
    )
)


def sizes_of(order: Order, window: Window) -> np.ndarray:
    """Any sizes, but the same for a shard in every epoch."""
    parts = [np.random.default_rng(shard).integers(1, 50, order.rows[shard]) for shard in window.shards]
    return np.concatenate(parts).astype(np.int32)


def rows_of(order: Order, window: Window) -> list[list[tuple[int, int]]]:
    """(shard, row) of each micro-batch."""
    every = [(shard, row) for shard in window.shards for row in range(order.rows[shard])]
    return [[every[place] for place in batch] for batch in deal(order, window, sizes_of(order, window))]


@given(orders, st.integers(1, 3))
def test_every_epoch_has_every_row_once(order: Order, epochs: int) -> None:
    wanted = sorted((shard, row) for shard, rows in enumerate(order.rows) for row in range(rows))
    number = 0
    for windows in islice(order.epochs(), epochs):
        found = []
        for window in windows:
            batches = rows_of(order, window)
            assert window.first == number
            assert len(batches) == window.micro_batches
            assert all(len(batch) <= order.micro_rows for batch in batches)
            assert sum(len(batch) < order.micro_rows for batch in batches) <= 1
            number += len(batches)
            found += [row for batch in batches for row in batch]
        assert sorted(found) == wanted
    assert order.micro_batches(epochs) == number


@settings(deadline=None)
@given(orders, st.integers(0, 30), st.integers(1, 40), st.integers(1, 4))
def test_processes_together_read_what_one_reads(order: Order, first: int, count: int, world: int) -> None:
    def numbers(rank: int, world: int) -> list[int]:
        return [
            number
            for piece in pieces(order, first, first + count, rank, world)
            for number in range(piece.window.first, piece.window.first + piece.window.micro_batches)
            if piece.first <= number < piece.last and number % piece.world == piece.rank
        ]

    together = [number for rank in range(world) for number in numbers(rank, world)]
    assert sorted(together) == numbers(0, 1) == list(range(first, first + count))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def first_rows(seed: int, epoch: int) -> list[list[tuple[int, int]]]:
        order = Order(seed, (30, 20, 10), 4, 25)
        windows = next(islice(order.epochs(), epoch, None))
        return [batch for window in windows for batch in rows_of(order, window)]

    assert first_rows(1, 0) == first_rows(1, 0)
    assert first_rows(1, 0) != first_rows(1, 1)
    assert first_rows(1, 0) != first_rows(2, 0)


def test_rows_of_like_size_go_together() -> None:
    order = Order(0, (500,), 10, 500)
    window = next(order.epochs())[0]
    sizes = np.random.default_rng(0).integers(1, 1000, 500).astype(np.int32)
    spread = [int(np.ptp(sizes[batch])) for batch in deal(order, window, sizes)]
    assert max(spread) < 100  # 50 batches over 1000 sizes: 20 each, were they even
    firsts = [int(sizes[batch[0]]) for batch in deal(order, window, sizes)]
    assert firsts != sorted(firsts)  # the batches themselves come in any order


def test_a_step_is_a_random_draw_where_only_its_rows_are_sorted() -> None:
    order = Order(0, (4096,), 16, 4096, 64)
    sizes = np.random.default_rng(0).integers(1, 1000, 4096).astype(np.int32)
    micro = [sizes[batch] for batch in deal(order, next(order.epochs())[0], sizes)]
    steps = np.array(micro).reshape(64, 64)
    assert (np.diff(steps, axis=1) >= 0).all()
    means = steps.mean(axis=1)  # of 64 draws from 1 ... 1000: 500, with a deviation of 289 / 8 = 36
    assert abs(means - 500).max() < 5 * 36
    assert np.std(means) == pytest.approx(36, rel=0.3)


def test_who_is_held_out_depends_on_the_id_alone() -> None:
    keys = row_keys([f"d{i}" for i in range(20_000)])
    chosen = held_out(keys, 0.1)
    assert chosen.mean() == pytest.approx(0.1, abs=0.01)
    np.testing.assert_array_equal(held_out(keys[::-1], 0.1), chosen[::-1])
    assert (held_out(keys, 0.2) >= chosen).all()  # a larger share takes more rows, and leaves none of these
    assert not held_out(keys, 0.0).any()
    assert row_keys([7]) == row_keys(["7"])
