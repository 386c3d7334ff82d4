"""Draws that belong to a row: distributed as they should be, independent, and the same whatever is asked beside them."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kxbatch.data.row_draws import Keys, held_out, mix, row_keys, seeds, standard_normal, uniform

ROWS = 500
KEYS = row_keys([f"row-{n}" for n in range(ROWS)])
STARTS = seeds(KEYS, 7, 4)
MASK = 2**64 - 1


def splitmix(state: int) -> int:
    """The generator of Steele, Lea and Flood (2014) with Python's integers: one step from a state."""
    z = (state + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def test_mix_is_splitmix() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the first number of the reference implementation for seed 0
    values = np.array([0, 1, 12345, 2**63, MASK], np.uint64)
    assert mix(values).tolist() == [splitmix(int(value)) for value in values]


def test_keys_are_digests_of_ids() -> None:
    expected = int.from_bytes(hashlib.blake2b("Zürich".encode(), digest_size=8).digest(), "little")
    assert row_keys(["Zürich"]).tolist() == [expected]
    assert row_keys([17]).tolist() == row_keys(["17"]).tolist()
    assert row_keys([]).shape == (0,)


@settings(deadline=None)
@given(st.lists(st.text(), max_size=20), st.floats(0, 1), st.floats(0, 1))
def test_who_is_held_out_depends_on_the_row_alone_and_grows_with_the_share(ids: list[str], a: float, b: float) -> None:
    less, more = sorted((a, b))
    small, large = (held_out(row_keys(ids), share) for share in (less, more))
    assert not (small & ~large).any()
    assert [bool(held_out(row_keys([name]), less)[0]) for name in ids] == small.tolist()
    assert not held_out(row_keys(ids), 0).any()
    assert held_out(row_keys(ids), 1).all()


def test_the_share_that_is_held_out_is_the_one_asked_for() -> None:
    keys = row_keys(range(40_000))
    for share in (0.01, 0.1, 0.5):
        expected = share * 40_000
        assert abs(held_out(keys, share).sum() - expected) < 4 * np.sqrt(expected * (1 - share))


def test_normal_numbers_are_normal() -> None:
    """KS and moments; p-values are those of a fixed seed, the limit is one in a thousand."""
    found = standard_normal(STARTS, 0, 200, 6)
    assert found.shape == (ROWS, 200, 6)
    assert found.dtype == np.float32
    flat = found.astype(np.float64).ravel()
    n = flat.size
    assert stats.kstest(flat, "norm").pvalue > 1e-3
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10_170)):
        assert abs((flat**power).mean() - moment) < 4 * np.sqrt(variance / n), power
    for tail in (2, 3, 4):
        expected = 2 * n * stats.norm.sf(tail)
        assert abs((np.abs(flat) > tail).sum() - expected) < 4 * np.sqrt(expected)
    assert np.abs(flat).max() < 6.77
    for place in range(6):  # cosine and sine of a pair alike
        assert stats.kstest(found[:, :, place].ravel(), "norm").pvalue > 1e-3


def test_rows_vectors_places_draws_and_streams_are_independent() -> None:
    """All correlations of n pairs are below 4.5 / sqrt(n); of sizes too, which the two numbers of a pair would betray."""
    found = standard_normal(STARTS, 0, 400, 4).astype(np.float64)

    def largest(columns: np.ndarray) -> float:
        """Of numbers [n, c], in units of 1 / sqrt(n)."""
        places = stats.norm.cdf(columns)
        both = np.concatenate([places, np.abs(places - 0.5)], axis=1)
        correlations = np.corrcoef(both, rowvar=False)
        np.fill_diagonal(correlations, 0)
        return float(np.abs(correlations).max() * np.sqrt(len(columns)))

    assert largest(found.reshape(-1, 4)) < 4.5, "places of a vector"
    assert largest(found[:20, :, 0].T) < 4.5, "rows"
    assert largest(found[:, :20, 1]) < 4.5, "vectors of a row"
    others = [
        standard_normal(seeds(KEYS, draw, stream), 0, 50, 1).ravel() for draw in (-1, 0, 1) for stream in (1, 4, 5)
    ]
    assert largest(np.stack(others, axis=1).astype(np.float64)) < 4.5


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 9), st.data())
def test_a_vector_is_the_same_whatever_is_asked_beside_it(
    first: int, count: int, width: int, data: st.DataObject
) -> None:
    whole = standard_normal(STARTS[:8], 0, first + count, width)
    np.testing.assert_array_equal(standard_normal(STARTS[:8], first, count, width), whole[:, first:])
    rows = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=5))
    np.testing.assert_array_equal(standard_normal(STARTS[:8][rows], first, count, width), whole[rows, first:])


def test_no_vectors_and_no_rows() -> None:
    assert standard_normal(STARTS, 5, 0, 3).shape == (ROWS, 0, 3)
    assert standard_normal(STARTS[:0], 0, 4, 3).shape == (0, 4, 3)


@pytest.mark.parametrize("stream", range(8))
def test_seeds_tell_draws_and_streams_apart(stream: int) -> None:
    def each(other: int) -> list[int]:
        draws = [seeds(KEYS[:50], draw, other) for draw in (-2, -1, 0, 1, 2, 2**40)]
        return [int(value) for draw in draws for value in draw]

    assert len(set(each(stream))) == 300
    for other in range(stream):
        assert not set(each(stream)) & set(each(other))


def test_uniform_numbers_are_uniform_and_below_one() -> None:
    starts: Keys = np.repeat(STARTS, 100)
    found = uniform(starts, np.tile(np.arange(100), ROWS))
    assert stats.kstest(found, "uniform").pvalue > 1e-3
    assert found.min() >= 0
    assert found.max() < 1
    table = found.reshape(ROWS, 100)
    for lag in (1, 2, 7):
        assert abs(np.corrcoef(table[:, :-lag].ravel(), table[:, lag:].ravel())[0, 1]) < 4.5 / np.sqrt(ROWS * 93)
