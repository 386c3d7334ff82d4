"""The way in, Bayes' way back, and the arithmetic of predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusion_oracle import Mixture
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import (
    PREDICTIONS,
    WEIGHTINGS,
    Denoiser,
    Prediction,
    guide,
    loss_weights,
    make_schedule,
    posterior,
    q_sample,
    target,
    x0_and_eps,
)

KINDS = ["linear", "cosine", "su"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_leap_is_many_steps(kind: str) -> None:
    """Moments of x_t after t single steps, by Monte Carlo: mean A_t x_0, standard deviation B_t."""
    schedule, rng = make_schedule(kind, 40, **({} if kind == "cosine" else {"last": 0.2})), np.random.default_rng(0)
    x = np.full(200_000, 1.5)
    for t in range(1, 31):
        x = schedule.a[t] * x + schedule.b[t] * rng.standard_normal(len(x))
    eps = torch.from_numpy(rng.standard_normal((len(x), 1)))
    leapt = q_sample(schedule, torch.full_like(eps, 1.5), eps, torch.full((len(x),), 30))
    for found in (x, leapt.numpy()):
        assert found.mean() == pytest.approx(1.5 * schedule.A[30], abs=0.01)  # 4 standard errors
        assert found.std() == pytest.approx(schedule.B[30], rel=0.01)


def test_every_sample_has_its_own_time() -> None:
    schedule = make_schedule("linear", 100)
    x0, eps = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    found = q_sample(schedule, x0, eps, torch.tensor([0, 7, 100]))
    assert torch.equal(found[0], x0[0])
    for row, t in ((1, 7), (2, 100)):
        torch.testing.assert_close(found[row], float(schedule.A[t]) * x0[row] + float(schedule.B[t]) * eps[row])
    assert found.dtype == torch.float32


@settings(deadline=None, max_examples=100)
@given(kind=st.sampled_from(KINDS), steps=st.integers(2, 1000), data=st.data())
def test_posterior_is_the_product_of_two_gaussians(kind: str, steps: int, data: st.DataObject) -> None:
    schedule = make_schedule(kind, steps)
    t = data.draw(st.integers(2, steps))
    s = data.draw(st.integers(1, t - 1))
    a = np.prod(schedule.a[s + 1 : t + 1])
    b2 = 1 - a**2
    precision = 1 / schedule.B[s] ** 2 + a**2 / b2
    found = posterior(schedule, t, s)
    assert found.variance == pytest.approx(1 / precision, rel=1e-9)
    assert found.on_x0 == pytest.approx(schedule.A[s] / schedule.B[s] ** 2 / precision, rel=1e-9)
    assert found.on_x == pytest.approx(a / b2 / precision, rel=1e-9)
    # the identity of the mean: with x_0 = (x_t - B_t eps) / A_t, x_t comes with 1 / a
    assert found.on_x + found.on_x0 / schedule.A[t] == pytest.approx(1 / a, rel=1e-9)


def test_posterior_agrees_with_simulation() -> None:
    """Regression of x_s on x_t over 400,000 simulated paths from one x_0."""
    schedule, rng, x0 = make_schedule("su", 20, last=0.5), np.random.default_rng(1), 0.8
    t, s = 11, 6
    x_s = schedule.A[s] * x0 + schedule.B[s] * rng.standard_normal(400_000)
    x_t = x_s
    for step in range(s + 1, t + 1):
        x_t = schedule.a[step] * x_t + schedule.b[step] * rng.standard_normal(len(x_t))
    slope, constant = np.polyfit(x_t, x_s, 1)
    found = posterior(schedule, t, s)
    assert found.on_x == pytest.approx(slope, abs=0.005)
    assert found.on_x0 * x0 == pytest.approx(constant, abs=0.005)
    assert found.variance == pytest.approx((x_s - slope * x_t - constant).var(), rel=0.01)


def test_the_step_onto_the_data_is_certain() -> None:
    found = posterior(make_schedule("linear"), 7, 0)
    assert (found.on_x, found.on_x0, found.variance) == (0.0, pytest.approx(1.0, abs=1e-15), 0.0)


@settings(deadline=None)
@given(kind=st.sampled_from(PREDICTIONS), t=st.integers(1, 1000))
def test_a_target_turns_back_into_data_and_noise(kind: Prediction, t: int) -> None:
    schedule, generator = make_schedule("linear"), torch.Generator().manual_seed(t)
    x0, eps = (torch.randn(2, 3, 2, dtype=torch.float64, generator=generator) for _ in range(2))
    t_B = torch.tensor([t, t])
    x = q_sample(schedule, x0, eps, t_B)
    said = target(kind, schedule, x0, eps, t_B)
    found_x0, found_eps = x0_and_eps(kind, said, x, float(schedule.A[t]), float(schedule.B[t]))
    torch.testing.assert_close(found_x0, x0, rtol=1e-10, atol=1e-10)  # divided by A_1000 = 0.006
    torch.testing.assert_close(found_eps, eps, rtol=1e-10, atol=1e-10)


def test_v_turns_with_the_angle() -> None:
    """v is the derivative of x by the angle `arctan(B / A)` (Salimans and Ho 2022, appendix D)."""
    schedule, step = make_schedule("cosine", 100), 1e-6
    x0, eps = torch.randn(1, 5, dtype=torch.float64), torch.randn(1, 5, dtype=torch.float64)
    angle = np.arctan2(schedule.B[40], schedule.A[40])
    ends = [np.cos(angle + d) * x0 + np.sin(angle + d) * eps for d in (step, -step)]
    v = target("v", schedule, x0, eps, torch.tensor([40]))
    torch.testing.assert_close(v, (ends[0] - ends[1]) / (2 * step), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("kind", PREDICTIONS)
def test_weights_mean_what_they_say_of_the_error_in_x0(weighting: str, kind: Prediction) -> None:
    schedule = make_schedule("linear")
    weights = loss_weights(weighting, kind, schedule, gamma=5.0)  # type: ignore[arg-type]
    assert weights.shape == (1001,)
    assert weights[0] == 0
    for t in (1, 10, 100, 300, 1000):
        A, B = schedule.A[t], schedule.B[t]
        snr = A**2 / B**2
        said = [{"eps": (1 - A * x0) / B, "x0": x0, "v": A * (1 - A * x0) / B - B * x0}[kind] for x0 in (0.3, 0.4)]
        loss = weights[t] * (said[0] - said[1]) ** 2 / 0.1**2
        if weighting == "simple":
            assert weights[t] == 1
        else:
            assert loss == pytest.approx(snr if weighting == "snr" else min(snr, 5.0), rel=1e-9)


def test_unknown_words_are_refused() -> None:
    schedule = make_schedule("linear", 10)
    with pytest.raises(ConfigError, match="'epz' is none of eps, x0, v; did you mean 'eps'"):
        loss_weights("snr", "epz", schedule)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'min-snr'"):
        loss_weights("minsnr", "eps", schedule)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="gamma"):
        loss_weights("min-snr", "eps", schedule, gamma=0.0)
    with pytest.raises(ConfigError, match="none of eps, x0, v"):
        x0_and_eps("score", torch.ones(1), torch.ones(1), 1.0, 1.0)  # type: ignore[arg-type]


def test_a_clipped_guess_still_explains_x() -> None:
    schedule, x = make_schedule("linear"), 3 * torch.randn(5, 4, dtype=torch.float64)
    plain = Mixture().denoiser(schedule)
    for t in (1, 500, 1000):
        x0, eps = Denoiser(schedule, plain.predict, "eps", clip=0.5)(x, t)
        assert x0.abs().max() <= 0.5
        torch.testing.assert_close(float(schedule.A[t]) * x0 + float(schedule.B[t]) * eps, x)
        torch.testing.assert_close(x0, plain(x, t)[0].clamp(-0.5, 0.5))


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_denoiser_says_the_same_in_any_words(kind: Prediction) -> None:
    schedule, x = make_schedule("cosine", 100), torch.randn(6, 3, dtype=torch.float64)
    for t in (1, 50, 99):
        for found, wanted in zip(
            Mixture().denoiser(schedule, kind)(x, t), Mixture().denoiser(schedule)(x, t), strict=True
        ):
            torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)


def test_guidance_is_the_same_for_every_kind() -> None:
    schedule, x, t = make_schedule("linear"), torch.randn(4, 3, dtype=torch.float64), 400
    one, other = Mixture(), Mixture(means=(0.0, 0.5))
    found = []
    for kind in PREDICTIONS:
        t_B = torch.full((4,), t)
        said = guide(one.denoiser(schedule, kind).predict(x, t_B), other.denoiser(schedule, kind).predict(x, t_B), 3.0)
        found.append(x0_and_eps(kind, said, x, float(schedule.A[t]), float(schedule.B[t]))[1])
    for eps in found[1:]:
        torch.testing.assert_close(eps, found[0], rtol=1e-10, atol=1e-10)
    c, u = torch.tensor([3.0]), torch.tensor([1.0])
    assert [guide(c, u, scale).item() for scale in (0.0, 1.0, 2.5)] == [1.0, 3.0, 6.0]
