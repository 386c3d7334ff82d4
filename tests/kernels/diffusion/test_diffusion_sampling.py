"""Whole runs: one point comes out exactly, a mixture as itself, and no batch changes a sample."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusion_oracle import Mixture, normal_denoiser, point_denoiser
from scipy.stats import kstest
from torch import Tensor

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import (
    PREDICTIONS,
    START,
    AnalyticDpm,
    Ancestral,
    Ddim,
    Denoiser,
    Prediction,
    RowNoise,
    Rule,
    decode,
    make_schedule,
    noise_energy,
    sample,
    spaced_times,
)

DOUBLE = torch.float64
EVERY = list(range(1, 1001))


@pytest.mark.parametrize("kind", PREDICTIONS)
@pytest.mark.parametrize("rule", [Ancestral(), Ddim(0.0), Ddim(1.0)])
@pytest.mark.parametrize("kept", [1000, 10, 1])
def test_data_that_are_one_point_come_out_exactly(rule: Rule, kind: Prediction, kept: int) -> None:
    point = torch.tensor([[0.25, -0.75], [1.5, 0.0]], dtype=DOUBLE)
    denoiser = point_denoiser(make_schedule("linear"), point, kind)
    found = sample(denoiser, rule, spaced_times(1000, kept), RowNoise(0, range(3)), (2, 2), dtype=DOUBLE)
    torch.testing.assert_close(found, point.expand(3, 2, 2), rtol=0, atol=1e-10)


def test_steps_on_the_way_to_a_point_have_the_marginal_of_the_forward_process() -> None:
    """Small variance: stopped at time 300, samples are `N(A point, B^2)`."""
    schedule, seen = make_schedule("linear"), {}
    inner = point_denoiser(schedule, torch.tensor(0.7))

    def predict(x: Tensor, t: Tensor) -> Tensor:
        seen[int(t[0])] = x
        return inner.predict(x, t)

    sample(Denoiser(schedule, predict), Ancestral(), spaced_times(1000, 10), RowNoise(1, range(100)), (100,))
    for t in (800, 300, 100):
        standard = (seen[t] - 0.7 * float(schedule.A[t])) / float(schedule.B[t])
        assert kstest(standard.flatten().numpy(), "norm").pvalue > 0.01


@pytest.mark.parametrize(
    ("name", "times"),
    [("small", EVERY), ("large", EVERY), ("ddim", EVERY[::5]), ("heun", EVERY[::20]), ("analytic", EVERY[::10])],
)
def test_a_mixture_is_sampled_as_itself(name: str, times: list[int]) -> None:
    """4000 values against the exact distribution function (Kolmogorov-Smirnov), and their moments."""
    schedule, mixture, noise = make_schedule("linear"), Mixture(), RowNoise(5, range(20))
    denoiser = mixture.denoiser(schedule)
    if name == "heun":
        found = decode(denoiser, noise.draw(START, (200,), DOUBLE), times, "heun")
    else:
        rules: dict[str, Rule] = {"small": Ancestral(), "large": Ancestral(1.0), "ddim": Ddim()}
        if name == "analytic":
            data = mixture.draw(np.random.default_rng(0), (20, 200))
            energy = noise_energy(denoiser, data, RowNoise(6, range(20)), times).mean(0)
            rules[name] = AnalyticDpm(dict(zip(times, energy.tolist(), strict=True)))
        found = sample(denoiser, rules[name], times, noise, (200,), dtype=DOUBLE)
    values = found.flatten().numpy()
    assert kstest(values, mixture.cdf).pvalue > 0.01
    mean = 0.3 * -1.0 + 0.7 * 0.6
    variance = 0.3 * (1.0 + 0.04) + 0.7 * (0.36 + 0.09) - mean**2
    assert values.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 4000))
    assert values.var() == pytest.approx(variance, rel=0.05)


def test_ddim_with_all_noise_is_ddpm_with_small_variance() -> None:
    """Written out as in the papers, `x = (x - b^2 / B eps) / a + sigma z`, under the same noise."""
    schedule, noise = make_schedule("linear"), RowNoise(2, range(4))
    denoiser = Mixture().denoiser(schedule)
    x = noise.draw(START, (5,), DOUBLE)
    for t in reversed(EVERY):
        eps = denoiser.predict(x, torch.full((4,), t))
        x = (x - float(schedule.b[t] ** 2 / schedule.B[t]) * eps) / float(schedule.a[t])
        x = x + float(schedule.B[t - 1] * schedule.b[t] / schedule.B[t]) * noise.draw(t, (5,), DOUBLE)
    for rule in (Ddim(1.0), Ancestral()):
        found = sample(denoiser, rule, EVERY, noise, (5,), dtype=DOUBLE)
        torch.testing.assert_close(found, x, rtol=0, atol=1e-11)


def test_ddim_without_noise_draws_only_its_start() -> None:
    class Counting(RowNoise):
        def __init__(self) -> None:
            super().__init__(0, range(3))
            self.asked: list[int] = []

        def draw(self, t: int, *args, **keywords) -> Tensor:  # type: ignore[no-untyped-def]
            self.asked.append(t)
            return super().draw(t, *args, **keywords)

    denoiser, times, asked = Mixture().denoiser(make_schedule("su")), [1, 500, 1000], {}
    for name, rule, last in [("ddim", Ddim(), True), ("quiet", Ancestral(1.0), False), ("loud", Ancestral(1.0), True)]:
        noise = Counting()
        sample(denoiser, rule, times, noise, (2,), last_noise=last)
        asked[name] = noise.asked
    assert asked == {"ddim": [0], "quiet": [0, 1000, 500], "loud": [0, 1000, 500, 1]}


def test_noise_of_the_last_step_is_what_large_variance_lacks() -> None:
    """N(0, I) in 10 steps that end at T: 0.90 without the last noise, 1 with it."""
    schedule, times = make_schedule("su"), spaced_times(1000, 10)
    found = {}
    for last in (False, True):
        samples = sample(
            normal_denoiser(schedule), Ancestral(1.0), times, RowNoise(0, range(200)), (250,), last_noise=last
        )
        found[last] = samples.var().item()
    assert found[True] == pytest.approx(1.0, abs=0.02)  # 3 standard errors of 50,000 squares
    assert found[False] == pytest.approx(1 - schedule.B[100] ** 2, abs=0.02)


@pytest.mark.parametrize("rule", [Ancestral(), Ancestral(1.0), Ddim(), Ddim(0.5)])
def test_neither_batch_nor_worker_changes_a_sample(rule: Rule) -> None:
    """Bit for bit, with a denoiser that is itself; much of torch is not: a softmax rounds by where a value stands in a vector."""
    times = spaced_times(1000, 12)
    denoiser = Denoiser(make_schedule("cosine"), lambda x, t: x * torch.exp(-x * x), "x0")

    def run(keys: range | list[int]) -> Tensor:
        return sample(denoiser, rule, times, RowNoise(9, keys), (3, 5, 5))

    whole = run(range(23))
    for size in (1, 4, 10):
        chunks = [range(23)[at : at + size] for at in range(0, 23, size)]
        with ThreadPoolExecutor(4) as workers:
            assert torch.equal(torch.cat(list(workers.map(run, chunks))), whole)
    assert torch.equal(run([22, 0, 7]), whole[[22, 0, 7]])
    assert not torch.equal(sample(denoiser, rule, times, RowNoise(10, range(23)), (3, 5, 5)), whole)


def test_clipping_keeps_every_guess_in_range() -> None:
    """A denoiser that is wrong by a factor runs off; clipped, its samples stay in [-1, 1]."""
    schedule, times = make_schedule("linear"), spaced_times(1000, 20)
    plain = Mixture().denoiser(schedule, "x0").predict
    wrong = Denoiser(schedule, lambda x, t: 3 * plain(x, t), "x0")
    clipped = Denoiser(schedule, wrong.predict, "x0", clip=1.0)
    noise = RowNoise(0, range(50))
    for rule in (Ancestral(), Ancestral(1.0), Ddim()):
        assert sample(wrong, rule, times, noise, (4,)).abs().max() > 1.5
        assert sample(clipped, rule, times, noise, (4,)).abs().max() <= 1.0


def test_types_and_starts() -> None:
    denoiser, times, noise = Mixture().denoiser(make_schedule("linear")), spaced_times(1000, 8), RowNoise(0, range(3))
    single = sample(denoiser, Ancestral(), times, noise, (6,))
    double = sample(denoiser, Ancestral(), times, noise, (6,), dtype=DOUBLE)
    assert (single.dtype, double.dtype) == (torch.float32, DOUBLE)
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)
    start = noise.draw(START, (6,), DOUBLE)
    assert torch.equal(sample(denoiser, Ancestral(), times, noise, (6,), start_BD=start), double)
    half = Denoiser(denoiser.schedule, lambda x, t: denoiser.predict(x, t).bfloat16())
    assert sample(half, Ddim(), times, noise, (6,)).dtype == torch.float32


def test_times_of_another_schedule_are_refused() -> None:
    denoiser = Mixture().denoiser(make_schedule("linear", 100))
    with pytest.raises(ConfigError, match=r"time 200 .* 1 to 100"):
        sample(denoiser, Ddim(), [1, 200], RowNoise(0, [0]), (1,))
