"""The bound where it is known: it is the density itself when the model is exact, and above it otherwise."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from diffusion_oracle import Mixture, normal_denoiser, point_denoiser
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch.distributions import Normal, kl_divergence

from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.diffusion import (
    AnalyticDpm,
    Ancestral,
    Ddim,
    RowNoise,
    log_level_mass,
    log_normal,
    make_schedule,
    posterior,
    spaced_times,
    variational_bound,
)

DOUBLE = torch.float64


@pytest.mark.parametrize(("kept", "rows"), [(1000, 50), (20, 2000), (3, 2000), (1, 2000)])
def test_of_standard_normal_data_the_bound_is_the_density(kept: int, rows: int) -> None:
    """Large variance is exact for N(0, I): the bound is `-log2 N(x; 0, I) / d`, at any number of steps."""
    schedule, row = make_schedule("linear"), torch.tensor([0.3, -1.2, 2.0, 0.0], dtype=DOUBLE)
    found = variational_bound(
        normal_denoiser(schedule),
        Ancestral(1.0),
        spaced_times(1000, kept),
        row.expand(rows, 4),
        RowNoise(0, range(rows)),
        decoder="density",
    )
    exact = -Normal(0.0, 1.0).log_prob(row).mean().item() / math.log(2)
    error = found.total.std().item() / math.sqrt(rows)
    assert found.total.mean().item() == pytest.approx(exact, abs=4 * error)
    assert error < 1.3 / math.sqrt(rows)
    assert found.steps.shape == (rows, kept - 1)


def test_of_any_normal_data_the_analytic_bound_is_tight() -> None:
    """c = 0.4: what remains above the density is the prior's own gap, `KL(N(0, V_T) || N(0, 1))`."""
    schedule, c, times = make_schedule("linear"), 0.4, spaced_times(1000, 25)
    V = schedule.A**2 * c + schedule.B**2
    rule = AnalyticDpm({t: schedule.B[t] ** 2 / V[t] for t in times})
    x0 = math.sqrt(c) * torch.from_numpy(np.random.default_rng(0).standard_normal((4000, 8)))
    found = variational_bound(
        normal_denoiser(schedule, c), rule, times, x0, RowNoise(1, range(4000)), decoder="density"
    )
    gap = kl_divergence(Normal(0.0, math.sqrt(V[1000])), Normal(0.0, 1.0)).item() / math.log(2)
    above = found.total + Normal(0.0, math.sqrt(c)).log_prob(x0).mean(1) / math.log(2)
    assert above.mean().item() == pytest.approx(gap, abs=4 * above.std().item() / math.sqrt(4000))
    loose = variational_bound(
        normal_denoiser(schedule, c), Ancestral(), times, x0, RowNoise(1, range(4000)), decoder="density"
    )
    assert loose.total.mean() > found.total.mean() + 0.05


@pytest.mark.parametrize("rule", [Ancestral(), Ancestral(0.5), Ancestral(1.0), Ddim(0.5)])
def test_terms_are_divergences_of_normal_distributions(rule: Ancestral | Ddim) -> None:
    """Each term by `torch.distributions` from the means written out."""
    schedule, times, noise = make_schedule("linear"), [50, 300, 900], RowNoise(0, [4])
    denoiser, x0 = Mixture().denoiser(schedule), torch.tensor([[0.5, -0.2, 1.4]], dtype=DOUBLE)
    found = variational_bound(denoiser, rule, times, x0, noise, decoder="density", decoder_variance=0.01)
    bits = 1 / (3 * math.log(2))
    A, B = schedule.A, schedule.B
    prior = kl_divergence(Normal(A[900] * x0, torch.full_like(x0, B[900])), Normal(0.0, 1.0)).sum().item()
    assert found.prior.item() == pytest.approx(prior * bits, rel=1e-10)
    assert found.times.tolist() == [300, 900]
    for column, (t, s) in enumerate([(300, 50), (900, 300)]):
        x = A[t] * x0 + B[t] * noise.draw(t, (3,), DOUBLE)
        guess, step = denoiser(x, t)[0], rule.transition(schedule, t, s)
        if isinstance(rule, Ancestral):
            bayes = posterior(schedule, t, s)
            means = [bayes.on_x * x + bayes.on_x0 * point for point in (x0, guess)]
            assert step.known == bayes.variance
        else:
            means = [
                A[s] * point + math.sqrt(B[s] ** 2 - step.known) * (x - A[t] * point) / B[t] for point in (x0, guess)
            ]
        q, p = (Normal(m, math.sqrt(v)) for m, v in zip(means, (step.known, step.variance), strict=True))
        assert found.steps[0, column].item() == pytest.approx(kl_divergence(q, p).sum().item() * bits, rel=1e-9)
    x = A[50] * x0 + B[50] * noise.draw(50, (3,), DOUBLE)
    last = -Normal(denoiser(x, 50)[0], 0.1).log_prob(x0).sum().item() * bits
    assert found.decoder.item() == pytest.approx(last, rel=1e-10)
    assert found.total.item() == pytest.approx((found.prior + found.steps.sum() + found.decoder).item())


@settings(deadline=None, max_examples=60)
@given(mean=st.floats(-3, 3), sd=st.floats(1e-3, 5), levels=st.sampled_from([2, 3, 17, 256, 65536]))
def test_masses_of_all_levels_sum_to_one(mean: float, sd: float, levels: int) -> None:
    """Also of float32, which cannot hold most levels exactly."""
    x0 = (torch.arange(levels, dtype=DOUBLE) * 2 / (levels - 1) - 1)[:, None]
    for dtype in (torch.float32, DOUBLE):
        mass = log_level_mass(x0.to(dtype), torch.full_like(x0, mean), sd**2, levels)
        assert torch.isfinite(mass).all()
        assert mass.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(("levels", "mean", "sd"), [(2, 0.3, 0.8), (5, -0.9, 0.4), (17, 0.13, 0.09), (17, 1.2, 0.3)])
def test_levels_have_the_integral_of_the_density_between_the_middles(levels: int, mean: float, sd: float) -> None:
    """By quadrature; a row's log-mass is the sum of its values'."""
    step = 2 / (levels - 1)
    ends = [-np.inf, *(step * (np.arange(levels - 1) + 0.5) - 1), np.inf]
    masses = [quad(norm(mean, sd).pdf, *pair, epsabs=0)[0] for pair in pairwise(ends)]
    x0 = torch.arange(levels, dtype=torch.float32) * step - 1
    found = log_level_mass(x0[:, None], torch.full((levels, 1), mean, dtype=DOUBLE), sd**2, levels)
    np.testing.assert_allclose(found.exp(), masses, rtol=1e-7)
    whole = log_level_mass(x0[None], torch.full((1, levels), mean, dtype=DOUBLE), sd**2, levels)
    assert whole.item() == pytest.approx(found.sum().item())


def test_the_decoder_of_a_bound_is_that_of_its_levels() -> None:
    """Of 17 levels: the mass around what the denoiser answers at the first time, and nothing else depends on the levels."""
    schedule, noise = make_schedule("linear"), RowNoise(0, [3])
    image = torch.tensor([[0, 3, 8, 16]]) / 8.0 - 1
    denoiser = point_denoiser(schedule, image + 0.05, "x0")
    found, vector = (
        variational_bound(denoiser, Ancestral(), [100, 900], image, noise, decoder=kind, levels=17)  # type: ignore[arg-type]
        for kind in ("levels", "density")
    )
    mass = log_level_mass(image, image + 0.05, schedule.B[100] ** 2, 17).item()
    assert found.decoder.item() == pytest.approx(-mass / (4 * math.log(2)), rel=1e-6)
    assert found.decoder.item() != pytest.approx(vector.decoder.item(), rel=0.1)
    assert torch.equal(found.steps, vector.steps)
    assert torch.equal(found.prior, vector.prior)


def test_a_level_has_the_mass_of_the_normal_distribution_around_it() -> None:
    mean, sd = 0.2, 0.05
    for level in (0, 1, 100, 153, 154, 200, 254, 255):
        lower = -np.inf if level == 0 else (level - 0.5) / 127.5 - 1
        upper = np.inf if level == 255 else (level + 0.5) / 127.5 - 1
        sign = -1 if lower > mean else 1  # scipy's cdf is exact below the mean
        ends = sorted(norm.cdf(sign * (np.array([lower, upper]) - mean) / sd))
        x0 = torch.tensor([[level / 127.5 - 1]])
        found = log_level_mass(x0, torch.tensor([[mean]], dtype=DOUBLE), sd**2).item()
        assert found == pytest.approx(math.log(ends[1] - ends[0]), rel=1e-5)


def test_fine_levels_have_the_density_times_their_width() -> None:
    x0 = torch.round(torch.rand(6, 50, generator=torch.Generator().manual_seed(0)) * 200 + 20) / 127.5 - 1
    mean = x0 + 0.1
    wanted = log_normal(x0, mean, 0.25) + 50 * math.log(2 / 255)
    torch.testing.assert_close(log_level_mass(x0, mean, 0.25), wanted, rtol=1e-5, atol=1e-3)


def test_a_model_that_knows_an_image_needs_few_bits() -> None:
    """A denoiser that always answers the image itself: no bits for the steps, and a certain last one."""
    image = torch.round(torch.rand(1, 3, 4, 4) * 255) / 127.5 - 1
    schedule, noise = make_schedule("linear"), RowNoise(0, [1])
    found = variational_bound(
        point_denoiser(schedule, image, "x0"),
        Ancestral(),
        [1, 100, 1000],
        image,
        noise,
        decoder="levels",
        decoder_variance=1e-6,
    )
    assert found.steps.abs().max() == 0
    assert found.decoder.item() == pytest.approx(-math.log2(norm.cdf(1000 / 255) - norm.cdf(-1000 / 255)), rel=0.5)
    assert found.total.item() == pytest.approx(found.prior.item(), abs=1e-3)
    assert found.prior.item() < 1e-3


def test_a_row_has_the_same_bound_in_any_batch() -> None:
    schedule, times = make_schedule("linear"), spaced_times(1000, 5)
    x0 = Mixture().draw(np.random.default_rng(0), (6, 10))
    whole = variational_bound(
        Mixture().denoiser(schedule), Ancestral(), times, x0, RowNoise(0, range(6)), decoder="density"
    )
    part = variational_bound(
        Mixture().denoiser(schedule), Ancestral(), times, x0[2:4], RowNoise(0, [2, 3]), decoder="density"
    )
    assert torch.equal(part.total, whole.total[2:4])


def test_what_has_no_bound_is_refused() -> None:
    schedule = make_schedule("linear", 10)
    denoiser, x0, noise = normal_denoiser(schedule), torch.zeros(1, 2), RowNoise(0, [0])
    with pytest.raises(ConfigError, match=r"time 5 adds no noise.*eta above 0"):
        variational_bound(denoiser, Ddim(), [2, 5], x0, noise, decoder="density")
    with pytest.raises(DataError, match=r"^0 is none of the 256 levels"):
        variational_bound(denoiser, Ancestral(), [2, 5], x0, noise, decoder="levels")
    for wrong in (257 / 127.5 - 1, -2 / 127.5 - 1, float("nan")):
        with pytest.raises(DataError, match="256 levels"):
            variational_bound(denoiser, Ancestral(), [2], torch.tensor([[1.0, wrong]]), noise, decoder="levels")
    with pytest.raises(ConfigError, match="no decoder 'level'; did you mean 'levels'"):
        variational_bound(denoiser, Ancestral(), [2], x0, noise, decoder="level")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"0.125 is none of the 5 levels, which are level / 2 - 1 for 0 to 4"):
        variational_bound(denoiser, Ancestral(), [2], x0 + 0.125, noise, decoder="levels", levels=5)
    with pytest.raises(ConfigError, match="levels = 1"):
        variational_bound(denoiser, Ancestral(), [2], x0, noise, decoder="levels", levels=1)
    with pytest.raises(ConfigError, match="decoder_variance is 0"):
        variational_bound(denoiser, Ancestral(), [2], x0, noise, decoder="density", decoder_variance=0.0)
