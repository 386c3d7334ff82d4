"""Densities from neighbours: the mean of log p is the negative entropy, in the flat and on the sphere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import digamma

from kxbatch.kernels.knn import knn_graph
from kxbatch.kernels.neighbor_density import neighbor_log_density

Array = npt.NDArray[Any]


def densities(x: Array, k: int, metric: Any = "euclidean") -> Array:
    return neighbor_log_density(knn_graph(x.astype(np.float32), k, metric=metric).scores, metric, len(x), x.shape[1])


@pytest.mark.parametrize("dim", [2, 3, 4, 5])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_uniform_on_a_torus_has_no_log_density(dim: int, k: int) -> None:
    """Without an edge there is no bias at all: the mean is 0 within 4 standard errors of the mean.

    The cube is wrapped: copies of its rows surround it, of which only distances are used.
    """
    rng = np.random.default_rng(dim)
    n = 600
    x = rng.random((n, dim))
    difference = np.abs(x[:, None] - x[None])
    distance = np.sqrt((np.minimum(difference, 1 - difference) ** 2).sum(axis=2))
    np.fill_diagonal(distance, np.inf)
    found = neighbor_log_density(np.sort(distance, axis=1)[:, :k], "euclidean", n, dim)
    # the mean over rows of log p has a variance near (psi'(k) + correlations) / n; 3 / k is generous
    assert abs(found.mean()) < 4 * math.sqrt(3 / k / n)


@pytest.mark.parametrize(("dim", "tolerance"), [(2, 0.08), (3, 0.1), (4, 0.12), (5, 0.2)])
def test_normal_rows_have_the_entropy_of_the_normal_distribution(dim: int, tolerance: float) -> None:
    """The tolerance grows with the dimension: the density bends within the reach of the neighbours."""
    scale = np.linspace(0.5, 2, dim)
    x = np.random.default_rng(dim).normal(size=(3000, dim)) * scale
    entropy = 0.5 * dim * math.log(2 * math.pi * math.e) + np.log(scale).sum()
    assert densities(x, 4).mean() == pytest.approx(-entropy, abs=tolerance)


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_uniform_in_a_cube(dim: int) -> None:
    """In the middle, where no neighbour is missing for the edge."""
    x = np.random.default_rng(dim).random((3000, dim)) * 3
    inside = ((x > 0.6) & (x < 2.4)).all(axis=1)
    assert densities(x, 4)[inside].mean() == pytest.approx(-dim * math.log(3), abs=0.15)


@pytest.mark.parametrize("dim", [2, 3, 4, 8, 32, 64, 384])
def test_uniform_on_the_sphere(dim: int) -> None:
    """log p = -log of the sphere's area, however large the caps: in many dimensions neighbours lie near the right angle."""
    log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    x = np.random.default_rng(dim).normal(size=(2000, dim))
    found = densities(x * np.random.default_rng(1).uniform(0.5, 9, (2000, 1)), 10, "cosine")
    assert found.mean() == pytest.approx(-log_area, abs=0.05)


@pytest.mark.parametrize("dim", [2, 3, 5, 100, 1000])
def test_caps_are_those_of_the_sphere(dim: int) -> None:
    """Against the integral of `sin^(d-2)` over the angle, for caps of every size, and small ones beyond what a float64 holds."""
    log_area_below = math.log(2) + (dim - 1) / 2 * math.log(math.pi) - math.lgamma((dim - 1) / 2)
    for angle in (0.01, 0.1, 0.5, 1.0, 1.5, 2.0, 3.0):
        t = np.linspace(0, angle, 200_001)[1:]
        t = t - (t[1] - t[0]) / 2
        log_terms = (dim - 2) * np.log(np.sin(t))
        log_cap = log_area_below + log_terms.max() + math.log(np.exp(log_terms - log_terms.max()).sum() * (t[1] - t[0]))
        found = neighbor_log_density(np.array([[math.cos(angle)]]), "cosine", 1, dim)
        assert found[0] == pytest.approx(digamma(1) - digamma(1) - log_cap, abs=2e-4)


def test_scale_moves_the_density_by_its_jacobian() -> None:
    x = np.random.default_rng(0).normal(size=(400, 3))
    np.testing.assert_allclose(densities(x * 16, 5), densities(x, 5) - 3 * math.log(16), atol=1e-4)


def test_shorter_lists_use_their_last_neighbour() -> None:
    scores = np.array([[1.0, 2.0, 4.0], [1.0, 2.0, np.nan], [1.0, np.nan, np.nan], [np.nan] * 3, [np.inf] * 3])
    found = neighbor_log_density(scores, "euclidean", 50, 2)
    for row, (k, radius) in enumerate([(3, 4.0), (2, 2.0), (1, 1.0)]):
        expected = digamma(k) - digamma(50) - math.log(math.pi) - 2 * math.log(radius)
        assert found[row] == pytest.approx(expected)
    assert np.isnan(found[3:]).all()


def test_equal_rows_have_a_large_density_that_is_finite() -> None:
    for metric, same in (("euclidean", 0.0), ("cosine", 1.0), ("cosine", 1.0 + 1e-7)):
        found = neighbor_log_density(np.full((2, 1), same), metric, 10, 3)  # type: ignore[arg-type]
        assert np.isfinite(found).all()
        assert (found > 8).all()


def test_no_rows() -> None:
    assert neighbor_log_density(np.empty((0, 3)), "cosine", 0, 3).shape == (0,)
