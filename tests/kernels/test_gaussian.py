from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import mahalanobis as scipy_mahalanobis
from scipy.stats import chi2, multivariate_normal

from kxbatch.kernels.gaussian import fit_gaussian, log_density, mahalanobis
from kxbatch.kernels.moments import BLOCK, fold, second_moment

Array = NDArray[Any]


def rows(n: int, d: int = 7) -> Array:
    rng = np.random.default_rng(0)
    return rng.standard_normal((n, d)) @ rng.standard_normal((d, d)) + 3.0 * rng.standard_normal(d)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_log_density_equals_scipy(dtype: Any) -> None:
    x = rows(BLOCK + 300).astype(dtype)
    m = fold(x)
    expected = multivariate_normal(m.mean, second_moment(m, 1.0)).logpdf(x.astype(np.float64))
    np.testing.assert_allclose(log_density(fit_gaussian(m), x), expected, rtol=1e-9, atol=1e-9)


def test_mahalanobis_equals_scipy() -> None:
    x = rows(200)
    m = fold(x)
    inverse = np.linalg.inv(second_moment(m, 1.0))
    expected = [scipy_mahalanobis(row, m.mean, inverse) for row in x]
    np.testing.assert_allclose(mahalanobis(fit_gaussian(m), x), expected, rtol=1e-9)


def test_mean_squared_distance_is_the_width() -> None:
    """`E[(x - m) S^-1 (x - m)^T] = d` over the rows the moments were taken of, exactly."""
    x = rows(5_000)
    assert (mahalanobis(fit_gaussian(fold(x)), x) ** 2).mean() == pytest.approx(7.0, rel=1e-10)


def test_distances_of_gaussian_rows_follow_chi() -> None:
    x = rows(20_000)
    squared = mahalanobis(fit_gaussian(fold(x)), x) ** 2
    for p in (0.1, 0.5, 0.9):
        assert (squared < chi2(7).ppf(p)).mean() == pytest.approx(p, abs=0.01)


def test_density_lives_on_the_subspace_of_the_data() -> None:
    x = rows(1_000)
    x[:, 6] = x[:, 0] + x[:, 1]
    m = fold(x)
    singular = multivariate_normal(m.mean, second_moment(m, 1.0), allow_singular=True)
    g = fit_gaussian(m)
    assert g.whitener.shape == (7, 6)
    np.testing.assert_allclose(log_density(g, x), singular.logpdf(x), rtol=1e-6)
    normal = np.array([1.0, 1.0, 0, 0, 0, 0, -1.0])  # what a row has off the subspace does not count
    np.testing.assert_allclose(log_density(g, x + 5.0 * normal), log_density(g, x), rtol=1e-6)


def test_misuse_is_refused() -> None:
    g = fit_gaussian(fold(rows(100)))
    with pytest.raises(ValueError, match=r"width 7.*\[2, 3\]"):
        mahalanobis(g, np.zeros((2, 3)))
    with pytest.raises(ValueError, match="spread"):
        fit_gaussian(fold(np.ones((4, 2))))
