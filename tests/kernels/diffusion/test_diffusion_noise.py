"""Noise belongs to seed, sample and time, and to nothing else."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import RowNoise


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**64 - 1),
    keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6),
    t=st.integers(0, 1000),
    width=st.integers(1, 9),
)
def test_a_row_is_philox_by_seed_sample_and_time(seed: int, keys: list[int], t: int, width: int) -> None:
    found = RowNoise(seed, keys).draw(t, (width,), torch.float64)
    for row, key in zip(found, keys, strict=True):
        fresh = np.random.Generator(np.random.Philox(key=seed + (key << 64), counter=t << 192))
        assert row.tolist() == fresh.standard_normal(width).tolist()


def test_neighbours_and_batches_change_nothing() -> None:
    whole = RowNoise(3, range(20)).draw(17, (3, 4, 4))
    assert whole.shape == (20, 3, 4, 4)
    for cut in (1, 3, 7):
        parts = [RowNoise(3, range(20)[at : at + cut]).draw(17, (3, 4, 4)) for at in range(0, 20, cut)]
        assert torch.equal(torch.cat(parts), whole)
    assert torch.equal(RowNoise(3, [19, 4]).draw(17, (3, 4, 4)), whole[[19, 4]])


def test_types_and_shapes_have_the_same_noise() -> None:
    noise = RowNoise(0, np.array([2**64 - 1, 5], np.uint64))
    double = noise.draw(2, (6,), torch.float64)
    assert torch.equal(noise.draw(2, (6,)), double.float())
    assert torch.equal(noise.draw(2, (2, 3), torch.bfloat16), double.bfloat16().reshape(2, 2, 3))


def test_noise_is_normal_and_independent() -> None:
    """Over neighbouring seeds, samples and times, where a weak generator would show."""
    drawn = torch.stack(
        [RowNoise(seed, range(30)).draw(t, (64,), torch.float64) for seed in range(3) for t in range(30)]
    )
    values = drawn.reshape(3, 30, 30, 64).numpy()
    assert kstest(values.ravel(), "norm").pvalue > 0.01
    for axis in range(4):
        lagged = np.swapaxes(values, 0, axis)
        correlation = np.corrcoef(lagged[:-1].ravel(), lagged[1:].ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(lagged[1:].size)
    for one, other in itertools.combinations(range(3), 2):
        assert not np.array_equal(values[one], values[other])


@pytest.mark.parametrize(("seed", "keys"), [(-1, [0]), (2**64, [0]), (0, [-1]), (0, [2**64])])
def test_numbers_out_of_range_are_refused(seed: int, keys: list[int]) -> None:
    with pytest.raises(ConfigError, match=r"2\^64 - 1"):
        RowNoise(seed, keys)
