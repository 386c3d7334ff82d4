"""Bounds on log p of rows: below the density, where it is known; the kernel's on the same noise; the same beside any other rows."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import Tensor, nn

from kxbatch.data.row_draws import row_keys
from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import Ancestral, make_schedule, spaced_times, variational_bound
from kxbatch.models.diffusion.likelihood import BoundScorer, RowBounds, row_noise, time_groups
from kxbatch.models.diffusion.model import DiffusionModel
from kxbatch.models.diffusion.scaling import Scaling

SCHEDULE = make_schedule("linear", 1000)
MEAN, DEVIATION = np.array([3.0, -200.0, 0.01]), np.array([2.0, 50.0, 1e-3])


class Normal(nn.Module):
    """The best denoiser of data N(0, c I): `E[eps | x_t] = B_t x_t / (A_t^2 c + B_t^2)`."""

    def __init__(self, c: float = 1.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(SCHEDULE.B / (SCHEDULE.A**2 * c + SCHEDULE.B**2), dtype=torch.float32))

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        return self.gain[t_B][:, None] * x_BD


def model(scaling: Scaling, c: float = 1.0, **more: Any) -> DiffusionModel:
    return DiffusionModel(Normal(c), SCHEDULE, "eps", scaling, **more)


def keys(rows: int) -> Any:
    return row_keys([f"r{number}" for number in range(rows)])


def bits(found: RowBounds) -> Any:
    return found.prior + found.steps.sum(axis=1) + found.decoder


@pytest.mark.parametrize("steps", [1, 30])
def test_of_a_normal_distribution_the_bound_is_its_density_in_the_units_of_the_data(steps: int) -> None:
    """Standardised data are N(0, I), of which large noise is exact; scipy has the density with mean and deviations."""
    x = MEAN + DEVIATION * np.array([[0.0, 0, 0], [1, -1, 2], [-3, 0.5, 0]])
    exact = norm(MEAN, DEVIATION).logpdf(x).sum(axis=1)
    found = BoundScorer(model(Scaling(MEAN, DEVIATION)), steps=steps, draws=400).estimate(x, keys(3))
    assert (np.abs(found.log_density - exact) < 4 * found.stderr).all()
    assert found.stderr.max() < 0.3


def gap(c: float, steps: int) -> float:
    """How far the bound is below the density of data N(0, c), nats a value: divergences of normal distributions, all known.

    The best denoiser gives every step its right mean, so only variances differ: `q(x_s|x_t)` has `b^2 V_s / V_t`, the model `b^2`.
    """
    V, times = SCHEDULE.A**2 * c + SCHEDULE.B**2, [0, *spaced_times(1000, steps)]
    V[0] = c
    ratios = [V[s] / V[t] for s, t in pairwise(times)]
    return float(sum(0.5 * (ratio - 1 - np.log(ratio)) for ratio in [V[-1], *ratios]))


def test_more_steps_bring_the_bound_to_the_density_from_below() -> None:
    """Data N(0, 0.4 I): no fixed variance is exact, and in small steps all are close. 4 standard errors."""
    x = np.sqrt(0.4) * np.random.default_rng(0).standard_normal((500, 8))
    exact = norm(0, np.sqrt(0.4)).logpdf(x).sum(axis=1)
    gaps = [gap(0.4, steps) for steps in (2, 10, 50, 1000)]
    for steps, expected in zip((2, 10, 50, 1000), gaps, strict=True):
        below = exact - BoundScorer(model(Scaling.none(8), 0.4), steps=steps).estimate(x, keys(500)).log_density
        assert below.mean() == pytest.approx(8 * expected, abs=4 * below.std() / np.sqrt(500))
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 0.1
    assert 0 < gaps[-1] < 0.001


@pytest.mark.parametrize("levels", [None, 17, 256])
def test_it_is_the_bound_of_the_kernel_on_the_same_noise(levels: int | None) -> None:
    """In float32, of three draws; its terms, too."""
    rng = np.random.default_rng(0)
    scaling = Scaling(np.full(5, 3.0), np.full(5, 2.0)) if levels is None else Scaling.of_levels(5, levels)
    x = rng.normal(size=(4, 5)) if levels is None else rng.integers(0, levels, (4, 5)).astype(float)
    made, names = model(scaling, 0.5), keys(4)
    scorer = BoundScorer(made, steps=300, draws=3, seed=7)
    found = scorer.estimate(x, names)
    kernel = [
        variational_bound(
            made.denoiser(),
            Ancestral(1.0 if levels is None else 0.5),
            spaced_times(1000, 300),
            made.units(x),
            row_noise(names, 7, draw),
            decoder="density" if levels is None else "levels",
            levels=levels or 256,
        )
        for draw in range(3)
    ]
    jacobian = 5 * np.log(2.0) if levels is None else 0.0
    nats = np.stack([one.total.numpy() for one in kernel]) * 5 * np.log(2)
    np.testing.assert_allclose(found.log_density, -nats.mean(axis=0) - jacobian, rtol=1e-12)
    np.testing.assert_allclose(found.stderr, nats.std(axis=0, ddof=1) / np.sqrt(3), rtol=1e-9)
    np.testing.assert_allclose(bits(found) * 5 * np.log(2), -found.log_density - jacobian, rtol=1e-12)
    np.testing.assert_allclose(found.prior, kernel[0].prior, rtol=1e-12)
    steps = np.mean([one.steps.numpy() for one in kernel], axis=0)
    assert len(scorer.groups) == found.steps.shape[1] <= 128
    for column, group in enumerate(scorer.groups):
        np.testing.assert_allclose(found.steps[:, column], steps[:, group].sum(axis=1), rtol=1e-12)
    if levels is not None:
        assert (found.log_density < 0).all(), "probabilities"


def test_the_error_shrinks_with_the_root_of_the_draws() -> None:
    """And it is the deviation of bounds that are drawn anew."""
    scorers = {draws: BoundScorer(model(Scaling.none(6)), steps=10, draws=draws) for draws in (1, 16, 256)}
    x = np.random.default_rng(0).standard_normal((40, 6))
    found = {draws: scorer.estimate(x, keys(40)) for draws, scorer in scorers.items()}
    assert np.isnan(found[1].stderr).all()
    shares = found[16].stderr / found[256].stderr
    assert np.exp(np.log(shares).mean()) == pytest.approx(4, rel=0.1)  # of 40 rows: 0.18 / sqrt(40) each
    anew = [
        BoundScorer(model(Scaling.none(6)), steps=10, draws=16, seed=s).estimate(x, keys(40)) for s in range(-30, 0)
    ]
    spread = np.std([one.log_density for one in anew], axis=0)
    assert np.mean(spread / found[256].stderr) == pytest.approx(4, rel=0.1)


def test_a_row_has_the_same_bound_beside_any_others() -> None:
    """Bit for bit where batches are, whatever the threads; else within the rounding of float32."""
    x = np.random.default_rng(0).standard_normal((600, 3))
    whole = BoundScorer(model(Scaling.none(3)), steps=40, draws=2).estimate(x, keys(600))
    threads = BoundScorer(model(Scaling.none(3)), steps=40, draws=2, threads=3).estimate(x, keys(600))
    for name, array in vars(whole).items():
        assert np.array_equal(array, getattr(threads, name)), name
    second = BoundScorer(model(Scaling.none(3)), steps=40, draws=2).estimate(x[256:512], keys(600)[256:512])
    assert np.array_equal(second.log_density, whole.log_density[256:512])
    order = np.random.default_rng(1).permutation(600)[:70]
    some = BoundScorer(model(Scaling.none(3)), steps=40, draws=2).estimate(x[order], keys(600)[order])
    np.testing.assert_allclose(some.log_density, whole.log_density[order], atol=1e-4)
    assert len(BoundScorer(model(Scaling.none(3))).estimate(x[:0], keys(0)).steps) == 0


def test_a_row_far_beyond_all_numbers_has_no_bound_and_harms_no_other() -> None:
    scorer = BoundScorer(model(Scaling.none(3)), steps=5)
    x = np.array([[0.0, 1, 2], [1e60, 0, 0], [3, 1, 1]])
    found = scorer.estimate(x, keys(3)).log_density
    assert np.isfinite(found).tolist() == [True, False, True]
    np.testing.assert_allclose(found[[0, 2]], scorer.estimate(x[[0, 2]], keys(3)[[0, 2]]).log_density, atol=1e-5)


@pytest.mark.parametrize("steps", [0, 1, 127, 128, 129, 999, 99_999])
def test_groups_are_all_steps_in_order(steps: int) -> None:
    groups = time_groups(steps)
    assert [at for group in groups for at in range(steps)[group]] == list(range(steps))
    assert len(groups) <= 128
    sizes = [group.stop - group.start for group in groups]
    assert min(sizes, default=1) == 1
    assert steps > 128 or sizes == [1] * steps


def test_what_has_no_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="steps = 1001: the model was trained with 1000"):
        BoundScorer(model(Scaling.none(3)), steps=1001)
    with pytest.raises(ConfigError, match="only learned to see classes"):
        BoundScorer(model(Scaling.none(3), classes=("a",), unconditional=False))
