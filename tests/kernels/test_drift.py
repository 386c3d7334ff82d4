from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.linalg import sqrtm

from kxbatch.kernels.drift import drift, frechet
from kxbatch.kernels.moments import Moments, fold, second_moment

Array = NDArray[Any]


def rows(n: int, d: int, seed: int, scale: float = 1.0, offset: float = 0.0) -> Array:
    mix = np.random.default_rng(99).standard_normal((d, d)) / np.sqrt(d)
    return np.asarray(scale * np.random.default_rng(seed).standard_normal((n, d)) @ mix + offset)


def test_frechet_equals_the_definition_with_a_matrix_root() -> None:
    a, b = fold(rows(500, 8, 0)), fold(rows(300, 8, 1, scale=1.3, offset=0.2))
    cov_a, cov_b = second_moment(a, 1.0), second_moment(b, 1.0)
    root = sqrtm(cov_a)
    middle = np.real(sqrtm(root @ cov_b @ root))
    expected = ((a.mean - b.mean) ** 2).sum() + np.trace(cov_a + cov_b - 2 * middle)
    assert frechet(a, b) == pytest.approx(expected, rel=1e-9)
    assert frechet(b, a) == pytest.approx(expected, rel=1e-9)


def test_frechet_of_one_dimension_is_the_textbook_formula() -> None:
    a, b = fold(rows(100, 1, 0)), fold(rows(100, 1, 1, scale=3.0, offset=5.0))
    spread = float(np.sqrt(second_moment(a, 1.0)[0, 0]) - np.sqrt(second_moment(b, 1.0)[0, 0]))
    assert frechet(a, b) == pytest.approx(float(a.mean[0] - b.mean[0]) ** 2 + spread**2)


def test_frechet_of_equal_moments_is_zero_even_without_full_rank() -> None:
    x = rows(50, 20, 0)
    x[:, 10:] = x[:, :10]
    m = fold(x)
    assert frechet(m, m) < 1e-12 * float(np.trace(second_moment(m, 1.0)))


def test_a_shift_is_measured_in_standard_deviations() -> None:
    x = rows(2_000, 6, 0)
    stored = fold(x)
    step = np.linalg.cholesky(second_moment(stored, 1.0)) @ np.full(6, 2.0)
    found = drift(stored, fold(x + step))
    assert found.mean_shift == pytest.approx(2.0 * np.sqrt(6.0), rel=1e-6)
    assert found.covariance_distance < 1e-10
    assert found.frechet == pytest.approx(step @ step, rel=1e-9)


def test_scaling_is_seen_by_the_covariance() -> None:
    x = rows(2_000, 6, 0)
    x -= x.mean(axis=0)
    found = drift(fold(x), fold(2.0 * x))
    trace = float(np.trace(second_moment(fold(x), 1.0)))
    assert found.covariance_distance == pytest.approx(3.0)
    assert found.frechet == pytest.approx(trace, rel=1e-9)  # (2 - 1)^2 of every variance
    assert found.score == pytest.approx(1.0 - found.sampling_noise / trace)
    assert found.mean_shift < 1e-6


def test_sampling_noise_is_what_samples_of_one_gaussian_show() -> None:
    """Mean over 200 pairs of samples; its own standard error is about 2 %."""
    d, n_a, n_b = 10, 400, 250
    found = [drift(fold(rows(n_a, d, 2 * s)), fold(rows(n_b, d, 2 * s + 1))) for s in range(200)]
    measured = np.mean([f.frechet for f in found])
    predicted = np.mean([f.sampling_noise for f in found])
    assert measured == pytest.approx(predicted, rel=0.1)


def test_a_small_new_shard_of_the_same_kind_scores_low_and_a_changed_one_high() -> None:
    stored = fold(rows(20_000, 16, 0))
    same, moved = drift(stored, fold(rows(100, 16, 1))), drift(stored, fold(rows(100, 16, 1, offset=0.5)))
    assert same.score < 0.02 < 0.1 < moved.score
    assert (same.n_stored, same.n_new) == (20_000, 100)


def test_misuse_is_refused() -> None:
    m = fold(rows(20, 3, 0))
    with pytest.raises(ValueError, match="width 3 and 4"):
        drift(m, fold(rows(20, 4, 0)))
    nothing = Moments(0, m.mean, m.scatter, m.unit_sum, 0, 0.0)
    with pytest.raises(ValueError, match="no rows"):
        drift(m, nothing)
    with pytest.raises(ValueError, match="spread"):
        drift(fold(np.ones((5, 3))), m)
