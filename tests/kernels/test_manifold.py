"""Precision and recall against the definition, written out pair by pair, and where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from kxbatch.kernels.drift import frechet
from kxbatch.kernels.manifold import coverage, inside
from kxbatch.kernels.moments import fold
from kxbatch.kernels.sample_quality import Cloud, low_distance, quality


def by_definition(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, float]:
    """Equations 1 to 3 of Kynkaanniemi et al. (2019), in float64."""

    def share(points: np.ndarray, centres: np.ndarray) -> float:
        radii = np.sort(cdist(centres, centres), axis=1)[:, k]  # place 0 is the point itself
        return float((cdist(points, centres) <= radii).any(axis=1).mean())

    return share(made, real), share(real, made)


@pytest.mark.parametrize(("n", "m", "k", "shift"), [(40, 60, 3, 0.0), (200, 50, 1, 0.7), (30, 31, 5, 2.0)])
def test_coverage_is_as_defined(n: int, m: int, k: int, shift: float) -> None:
    rng = np.random.default_rng(0)
    real, made = rng.standard_normal((n, 6)), rng.standard_normal((m, 6)) * 0.8 + shift
    found = coverage(real.astype(np.float32), made.astype(np.float32), k=k)
    assert found is not None
    assert (found.precision, found.recall) == pytest.approx(by_definition(real, made, k), abs=1e-12)


def test_a_sample_covers_itself_and_a_far_one_not_at_all() -> None:
    points = np.random.default_rng(0).standard_normal((50, 4))
    assert coverage(points, points) == coverage(points, points[::-1])
    same, far = coverage(points, points), coverage(points, points + 100)
    assert same is not None
    assert far is not None
    assert (same.precision, same.recall, far.precision, far.recall) == (1, 1, 0, 0)


def test_one_mode_of_two_is_precise_and_misses_half() -> None:
    rng = np.random.default_rng(0)
    real = np.concatenate([rng.standard_normal((200, 3)) - 20, rng.standard_normal((200, 3)) + 20])
    found = coverage(real, rng.standard_normal((400, 3)) + 20, k=3)
    assert found is not None
    assert found.precision > 0.9
    assert 0.45 < found.recall <= 0.5


def test_too_few_points_have_no_neighbours() -> None:
    assert coverage(np.zeros((3, 2)), np.zeros((9, 2)), k=3) is None
    assert not inside(np.zeros((4, 2)), np.empty((0, 2)), np.empty(0)).any()


def test_a_point_on_the_edge_is_inside_however_far_away_the_origin_is() -> None:
    for away in (0.0, 1e3):
        centres = np.array([[away, 0.0]])
        points = np.array([[away + 1.0, 0.0], [away + 1.01, 0.0]])
        assert inside(points, centres, [1.0]).tolist() == [True, False]


def test_quality_of_normal_rows_is_known() -> None:
    rng = np.random.default_rng(1)
    real, made = rng.standard_normal((4000, 5)), rng.standard_normal((4000, 5)) + np.eye(5)[0]
    copied = np.concatenate([made[:3000], real[:1000]])
    found = quality(Cloud(real), Cloud(made))
    assert found.frechet == pytest.approx(1.0, abs=0.1)  # of the means; sampling noise is about 5/4000
    assert found.frechet == frechet(fold(real, exact=True), fold(made, exact=True)) == found.frechet_values
    low = low_distance(Cloud(real), Cloud(made))
    assert low == pytest.approx(np.quantile(cdist(made, real).min(axis=1), 0.01), rel=1e-4)
    assert low_distance(Cloud(real), Cloud(copied)) == 0
    assert quality(Cloud(real), Cloud(copied), limit=0).copies == 0.25
    assert found.copies is None
    assert found.nearest == pytest.approx(np.median(cdist(made, real).min(axis=1)), rel=1e-5)


def test_features_are_told_apart_from_values() -> None:
    rng = np.random.default_rng(2)
    values, features = rng.standard_normal((100, 4)), rng.standard_normal((100, 2)) * 3
    found = quality(Cloud(values, features), Cloud(values + 5, features))
    assert found.frechet == pytest.approx(0, abs=1e-9)
    assert found.frechet_values == pytest.approx(100, rel=1e-6)
    assert found.precision == 1


@pytest.mark.parametrize(("n", "m"), [(20, 30), (39, 5), (2, 2)])
def test_rows_that_are_fewer_than_their_numbers_give_the_same_distance(n: int, m: int) -> None:
    rng = np.random.default_rng(3)
    mix = rng.standard_normal((40, 40))
    real, made = rng.standard_normal((n, 40)) @ mix, rng.standard_normal((m, 40)) * 2 + 0.3
    expected = frechet(fold(real, exact=True), fold(made, exact=True))
    assert quality(Cloud(real), Cloud(made)).frechet == pytest.approx(
        expected, rel=1e-7
    )  # the roots of empty directions round
