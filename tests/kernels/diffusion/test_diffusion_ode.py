"""The probability-flow ODE: solved exactly for normal data, to its order for a mixture, there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusion_oracle import Mixture, normal_denoiser, point_denoiser
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import (
    SOLVERS,
    START,
    Ddim,
    RowNoise,
    Solver,
    decode,
    encode,
    make_schedule,
    sample,
    slerp,
    spaced_times,
)

DOUBLE = torch.float64


def test_euler_is_ddim() -> None:
    denoiser, noise, times = Mixture().denoiser(make_schedule("linear")), RowNoise(0, range(5)), [3, 40, 500, 990]
    wanted = sample(denoiser, Ddim(), times, noise, (7,), dtype=DOUBLE)
    found = decode(denoiser, noise.draw(START, (7,), DOUBLE), times, "euler")
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["linear", "cosine", "su"])
@pytest.mark.parametrize("kept", [1, 7, 50])
def test_every_solver_is_exact_for_one_point(solver: Solver, kind: str, kept: int) -> None:
    denoiser = point_denoiser(make_schedule(kind), torch.tensor(0.6, dtype=DOUBLE))
    times, latent = spaced_times(1000, kept), RowNoise(0, range(2)).draw(START, (5,), DOUBLE)
    found = decode(denoiser, latent, times, solver)
    torch.testing.assert_close(found, torch.full_like(found, 0.6), rtol=0, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("kind", ["linear", "cosine", "su"])
def test_every_solver_finds_the_solution_for_normal_data(solver: Solver, kind: str) -> None:
    """For N(0, c) the flow is linear, `x_0 = x_T sqrt(c / (A_T^2 c + B_T^2))`."""
    schedule, c = make_schedule(kind), 0.3
    latent = RowNoise(0, range(2)).draw(START, (5,), DOUBLE)
    exact = latent * math.sqrt(c / (schedule.A[1000] ** 2 * c + schedule.B[1000] ** 2))
    found = decode(normal_denoiser(schedule, c), latent, spaced_times(1000, 1000), solver)
    torch.testing.assert_close(found, exact, rtol=5e-3 if solver == "euler" else 5e-4, atol=0)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_error_falls_with_the_order_of_the_solver(kind: str) -> None:
    """In one dimension the exact flow keeps every value's quantile: `F_0(x_0) = F_T(x_T)`, both ways."""
    schedule, mixture = make_schedule(kind), Mixture()
    denoiser, ends = mixture.denoiser(schedule), (float(schedule.A[1000]), float(schedule.B[1000]))
    latent = RowNoise(0, range(20)).draw(START, (20,), DOUBLE)
    data = mixture.draw(np.random.default_rng(0), (20, 20))
    ladder, slopes = (10, 20, 40, 80), {}
    for solver in SOLVERS:
        down, up = [], []
        for kept in ladder:
            times = spaced_times(1000, kept)
            found = decode(denoiser, latent, times, solver)
            down.append(np.abs(mixture.cdf(found.numpy()) - mixture.cdf(latent.numpy(), *ends)).mean())
            found = encode(denoiser, data, times, solver)
            up.append(np.abs(mixture.cdf(found.numpy(), *ends) - mixture.cdf(data.numpy())).mean())
        for errors in (down, up):
            assert errors == sorted(errors, reverse=True)
        slopes[solver] = [math.log2(errors[0] / errors[-1]) / 3 for errors in (down, up)]
    assert slopes["euler"] == pytest.approx([1, 1], abs=0.1)
    assert min(slopes["midpoint"]) > 1.8
    assert slopes["heun"][0] > 1.4  # its last step down is Euler's
    assert slopes["heun"][1] > 1.8


@pytest.mark.parametrize("solver", SOLVERS)
def test_encoding_undoes_decoding_the_better_the_more_steps(solver: Solver) -> None:
    denoiser = Mixture().denoiser(make_schedule("linear"))
    data = Mixture().draw(np.random.default_rng(0), (20, 20))
    errors = []
    for kept in (10, 30, 100, 300):
        times = spaced_times(1000, kept)
        latent = encode(denoiser, data, times, solver)
        errors.append((decode(denoiser, latent, times, solver) - data).abs().mean().item())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < {"euler": 0.01, "heun": 5e-4, "midpoint": 1e-4}[solver]


def test_latents_of_data_are_normal() -> None:
    """What `encode` makes of exact samples has the moments of `N(0, I)`."""
    denoiser = Mixture().denoiser(make_schedule("linear"))
    data = Mixture().draw(np.random.default_rng(1), (40, 100))
    latent = encode(denoiser, data, spaced_times(1000, 200), "heun")
    assert latent.mean().item() == pytest.approx(0.0, abs=0.06)
    assert latent.std().item() == pytest.approx(1.0, abs=0.05)


@settings(deadline=None, max_examples=50)
@given(share=st.floats(0, 1), angle=st.floats(0.01, 3.1), turn=st.floats(0, 6.28))
def test_slerp_walks_the_circle(share: float, angle: float, turn: float) -> None:
    def at(place: float) -> torch.Tensor:
        return 3 * torch.tensor([[math.cos(place)], [math.sin(place)]], dtype=DOUBLE)[None]

    found = slerp(at(turn), at(turn + angle), share)
    torch.testing.assert_close(found, at(turn + share * angle), rtol=1e-9, atol=1e-9)


def test_slerp_of_lines_ends_and_shapes() -> None:
    x, y = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
    torch.testing.assert_close(slerp(x, y, 0.0), x)
    torch.testing.assert_close(slerp(x, y, 1.0), y)
    torch.testing.assert_close(slerp(x, 2 * x, 0.5), 1.5 * x)
    torch.testing.assert_close(slerp(x, -x, 0.25), 0.5 * x)
    torch.testing.assert_close(slerp(x, y, 0.3)[2:3], slerp(x[2:3], y[2:3], 0.3))
    long = torch.randn(50, 3072, dtype=DOUBLE)
    norms = slerp(long, long.flip(0), 0.5).norm(dim=1) / long.norm(dim=1)
    assert norms.min() > 0.95  # the middle of a line would be sqrt(1/2) of the way from the origin


def test_unknown_solvers_and_times_are_refused() -> None:
    denoiser = Mixture().denoiser(make_schedule("linear", 10))
    with pytest.raises(ConfigError, match="no ODE solver 'huen'; did you mean 'heun'"):
        decode(denoiser, torch.zeros(1, 1), [5], "huen")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="named twice"):
        encode(denoiser, torch.zeros(1, 1), [5, 5])
