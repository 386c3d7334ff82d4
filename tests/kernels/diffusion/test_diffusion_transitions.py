"""Single steps: what they do to the variance of normal data, whose best denoiser is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusion_oracle import Constant, normal_denoiser
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import (
    AnalyticDpm,
    Ancestral,
    Ddim,
    RowNoise,
    Rule,
    Schedule,
    make_schedule,
    noise_energy,
    posterior,
    sample,
    spaced_times,
)

LARGE, SMALL = Ancestral(1.0), Ancestral()


def variance_reached(rule: Rule, schedule: Schedule, times: list[int], *, data: float, start: float = 1.0) -> float:
    """Variance of samples of N(0, data I), step by step: each is linear, so two samples show all of it.

    Without noise, 1 becomes the factor on what comes in; from 0 with noise 1, the noise's own factor is left.
    """
    denoiser, variance = normal_denoiser(schedule, data), start
    for t, s in zip(times[::-1], [*times[-2::-1], 0], strict=True):
        step = rule.transition(schedule, t, s)
        x0, eps = denoiser(torch.ones(1, 1, dtype=torch.float64), t)
        factor = step.on_x0 * x0.item() + step.on_eps * eps.item()
        variance = factor**2 * variance + step.variance
    return variance


def expected_variance(schedule: Schedule, times: list[int], eta: float, large: bool) -> float:
    """The recursion written down from the page's formulas for N(0, I), whose denoiser says eps = B_t x."""
    A, B, variance = schedule.A, schedule.B, 1.0
    for t, s in zip(times[::-1], [*times[-2::-1], 0], strict=True):
        ratio = A[t] / A[s]
        b2 = 1 - ratio**2
        small2 = B[s] ** 2 * b2 / B[t] ** 2
        mean = (1 - B[t] ** 2) / ratio + math.sqrt(max(B[s] ** 2 - eta**2 * small2, 0.0)) * B[t]
        variance = mean**2 * variance + (b2 if large else eta**2 * small2)
    return variance


@pytest.mark.parametrize("kind", ["linear", "cosine", "su"])
@pytest.mark.parametrize("kept", [1000, 50, 10, 3])
def test_variance_follows_the_recursion(kind: str, kept: int) -> None:
    schedule, times = make_schedule(kind), spaced_times(1000, kept)
    for rule, eta, large in [(SMALL, 1.0, False), (LARGE, 1.0, True), (Ddim(0.0), 0.0, False), (Ddim(0.4), 0.4, False)]:
        found = variance_reached(rule, schedule, times, data=1.0)
        assert found == pytest.approx(expected_variance(schedule, times, eta, large), abs=1e-10)


@pytest.mark.parametrize("kind", ["linear", "cosine", "su"])
@pytest.mark.parametrize(
    "times", [list(range(1, 1001)), spaced_times(1000, 10), spaced_times(1000, 7, "leading"), [400]]
)
def test_large_keeps_the_variance_of_standard_normal_data(kind: str, times: list[int]) -> None:
    assert variance_reached(LARGE, make_schedule(kind), times, data=1.0) == pytest.approx(1.0, abs=1e-10)


def test_published_variances_of_a_thousand_and_of_ten_steps() -> None:
    schedule = make_schedule("su")
    every = list(range(1, 1001))
    assert variance_reached(SMALL, schedule, every, data=1.0) == pytest.approx(0.9912, abs=5e-5)
    assert variance_reached(Ddim(), schedule, every, data=1.0) == pytest.approx(0.9963, abs=5e-5)
    ten = spaced_times(1000, 10, "leading")
    assert variance_reached(Ddim(), schedule, ten, data=1.0) == pytest.approx(0.692, abs=5e-4)
    assert variance_reached(SMALL, schedule, ten, data=1.0) == pytest.approx(0.5485, abs=5e-5)


def test_samples_have_the_variance_of_the_steps() -> None:
    """`sample` itself, from 1 without noise and from 0 with it; noise in the last step is asked for."""
    schedule, times = make_schedule("su"), spaced_times(1000, 4)
    denoiser = normal_denoiser(schedule)
    for rule in (SMALL, LARGE, Ancestral(0.3), Ddim(), Ddim(0.5)):
        one = torch.ones(1, 1, dtype=torch.float64)
        factor = sample(denoiser, rule, times, Constant(0.0), (1,), start_BD=one, last_noise=True).item()
        pushed = sample(denoiser, rule, times, Constant(1.0), (1,), start_BD=0 * one, last_noise=True).item()
        factors, scales = [], []
        for t, s in zip(times[::-1], [*times[-2::-1], 0], strict=True):
            step = rule.transition(schedule, t, s)
            factors.append(step.on_x0 * schedule.A[t] + step.on_eps * schedule.B[t])
            scales.append(math.sqrt(step.variance))
        assert factor == pytest.approx(np.prod(factors), rel=1e-12)
        expected = sum(scale * np.prod(factors[number + 1 :]) for number, scale in enumerate(scales))
        assert pushed == pytest.approx(expected, rel=1e-12)


@settings(deadline=None, max_examples=60)
@given(steps=st.integers(2, 400), large=st.floats(0, 1), data=st.data())
def test_a_mixed_variance_lies_between_the_bounds(steps: int, large: float, data: st.DataObject) -> None:
    schedule = make_schedule("linear", steps)
    t = data.draw(st.integers(1, steps))
    s = data.draw(st.integers(0, t - 1))
    low, high = posterior(schedule, t, s).variance, schedule.between(t, s)[1]
    step = Ancestral(large).transition(schedule, t, s)
    assert low <= high
    assert step.variance == pytest.approx((1 - large) * low + large * high, rel=1e-10)
    assert step.known == low
    assert step.on_x0 == pytest.approx(schedule.A[s], rel=1e-10)
    ddim = Ddim(1.0).transition(schedule, t, s)
    assert (ddim.on_eps, ddim.known) == pytest.approx((step.on_eps, low), rel=1e-9)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("data", [0.0, 0.1, 1.0])
def test_the_analytic_variance_is_exact_for_normal_data(eta: float, data: float) -> None:
    """From the exact marginal at T, normal data of any variance come out exactly, in three steps."""
    schedule, times = make_schedule("linear"), spaced_times(1000, 3)
    spread = schedule.A**2 * data + schedule.B**2
    energy = {t: schedule.B[t] ** 2 / spread[t] for t in times}
    rule = AnalyticDpm(energy, eta)
    found = variance_reached(rule, schedule, times, data=data, start=spread[1000])
    assert found == pytest.approx(data, abs=1e-10)


def test_the_analytic_variance_is_that_of_bayes() -> None:
    """`Var(x_s | x_t)` of jointly normal variables."""
    schedule, c, t, s = make_schedule("cosine", 100), 0.37, 60, 45
    a = schedule.A[t] / schedule.A[s]
    V_s, V_t = (schedule.A[i] ** 2 * c + schedule.B[i] ** 2 for i in (s, t))
    step = AnalyticDpm({t: schedule.B[t] ** 2 / V_t}).transition(schedule, t, s)
    assert step.variance == pytest.approx(V_s - (a * V_s) ** 2 / V_t, rel=1e-10)


def test_the_analytic_variance_is_kept_within_what_data_can_have() -> None:
    schedule = make_schedule("linear", 100)
    small = SMALL.transition(schedule, 50, 40).variance
    assert AnalyticDpm({50: 1.2}).transition(schedule, 50, 40).variance == pytest.approx(small)
    gain = posterior(schedule, 50, 40).on_x0
    for most in (1.0, 0.25):
        found = AnalyticDpm({50: -50.0}, most=most).transition(schedule, 50, 40)
        assert found.variance == pytest.approx(small + gain**2 * most)
    with pytest.raises(ConfigError, match="not measured at time 51"):
        AnalyticDpm({50: 0.9}).transition(schedule, 51, 40)


def test_energy_of_noise_is_measured() -> None:
    """`E eps^2 = B^2 / (A^2 c + B^2)` for normal data."""
    schedule, c, times = make_schedule("linear"), 0.5, [1, 200, 900]
    x0 = math.sqrt(c) * torch.from_numpy(np.random.default_rng(0).standard_normal((500, 100)))
    found = noise_energy(normal_denoiser(schedule, c), x0, RowNoise(0, range(500)), times)
    assert found.shape == (500, 3)
    expected = [schedule.B[t] ** 2 / (schedule.A[t] ** 2 * c + schedule.B[t] ** 2) for t in times]
    assert found.mean(0).tolist() == pytest.approx(expected, rel=0.02)  # 3 standard errors of 50,000 squares
    part = noise_energy(normal_denoiser(schedule, c), x0[7:9], RowNoise(0, [7, 8]), times)
    assert torch.equal(part, found[7:9])


@pytest.mark.parametrize("make", [lambda: Ancestral(1.1), lambda: Ddim(-0.1), lambda: Ddim(math.nan)])
def test_shares_outside_of_0_to_1_are_refused(make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError, match="goes from 0 to 1"):
        make()
