"""Samples of diffusion models whose denoisers are known exactly: data that are N(0, I), and data that are one point a class."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import START, RowNoise, Schedule, make_schedule, spaced_times
from kxbatch.models.diffusion.generator import DiffusionGenerator, Sampling
from kxbatch.models.diffusion.model import DiffusionModel
from kxbatch.models.diffusion.scaling import Scaling

WIDTH = 4
SCHEDULE = make_schedule("linear", 1000)
POINTS = torch.tensor([[1.0, 2, 3, 4], [-1, 0.5, 0, 2], [0, 0, 0, 0]])  # of two classes, and of none


class Normal(nn.Module):
    """Sees N(0, I): `E[eps | x_t] = B_t x_t`."""

    def __init__(self, schedule: Schedule = SCHEDULE) -> None:
        super().__init__()
        self.B = nn.Parameter(torch.tensor(schedule.B, dtype=torch.float32))

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        return self.B[t_B][:, None] * x_BD


class Points(Normal):
    """Sees one point: `eps = (x_t - A_t point) / B_t`."""

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        point_BD = POINTS[torch.full_like(t_B, 2) if class_B is None else class_B]
        B_B1 = self.B[t_B][:, None]
        return (x_BD - (1 - B_B1**2).sqrt() * point_BD) / B_B1


def generator(
    network: nn.Module | None = None, *, known: tuple[Any, ...] = (), unconditional: bool = True, **sampling: Any
) -> DiffusionGenerator:
    scaling = Scaling(np.full(WIDTH, 10.0), np.full(WIDTH, 2.0))
    model = DiffusionModel(network or Normal(), SCHEDULE, "eps", scaling, classes=known, unconditional=unconditional)
    return DiffusionGenerator(model, [Sampling(**sampling)], None, 5)


def test_ddim_turns_the_noise_of_each_sample_back() -> None:
    """Each step multiplies by `A_s A_t + B_s B_t`; the result is in the units of the data."""
    start = RowNoise(5, [3, 8]).draw(START, (WIDTH,), torch.float64).numpy()
    times = [0, *spaced_times(1000, 7)]
    A, B = SCHEDULE.A[times], SCHEDULE.B[times]
    expected = 10 + 2 * start * np.prod(A[1:] * A[:-1] + B[1:] * B[:-1])
    np.testing.assert_allclose(generator(steps=7).generate([3, 8]).values, expected, rtol=1e-4)


def test_large_noise_keeps_the_variance_of_normal_data() -> None:
    made = generator(solver="ddpm", steps=10).generate(range(3000)).values
    last = SCHEDULE.A[spaced_times(1000, 10)[0]]  # what the last step multiplies by, which adds no noise
    np.testing.assert_allclose(made.std(), 2 * last, rtol=0.04)  # 12000 values: 6 standard errors
    small = generator(eta=1.0, steps=10).generate(range(3000)).values.std()
    assert small < 0.9 * 2 * last  # too little noise in few steps


@pytest.mark.parametrize("solver", ["ddim", "ddpm", "heun", "midpoint"])
def test_samples_take_the_classes_in_turn(solver: str) -> None:
    made = generator(Points(), known=("a", "b"), solver=solver, steps=5).generate(range(4, 9))
    wanted = 10 + 2 * POINTS[[0, 1, 0, 1, 0]].numpy()
    np.testing.assert_allclose(made.values, wanted, rtol=2e-3, atol=1e-3)
    assert made.columns["class"].tolist() == ["a", "b", "a", "b", "a"]


@pytest.mark.parametrize(
    ("sampling", "point"),
    [
        ({"classes": ("8",)}, POINTS[1]),
        ({"classes": ("8",), "guidance": 3.0}, 3 * POINTS[1]),  # u + 3 (c - u), and u is 0
        ({"classes": ("8",), "guidance": 0.0}, POINTS[2]),
        ({"classes": ()}, POINTS[2]),
    ],
)
def test_classes_are_named_and_guidance_goes_beyond_them(sampling: dict[str, Any], point: Tensor) -> None:
    made = generator(Points(), known=(7, 8), steps=5, **sampling).generate([0, 1]).values
    np.testing.assert_allclose(made, np.tile(10 + 2 * point.numpy(), (2, 1)), rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize(
    ("sampling", "unconditional", "words"),
    [
        ({"classes": ("bea",)}, True, r"no class 'bea'; did you mean 'bee'\? \(has: ant, bee\)"),
        ({"steps": 1001}, True, "steps = 1001: the model was trained with 1000"),
        ({"classes": (), "guidance": 2.0}, True, "guidance = 2: there is no class"),
        ({"guidance": 2.0}, False, "only learned to see classes"),
        ({"classes": ()}, False, "only learned to see classes"),
    ],
)
def test_what_the_model_cannot_do_is_refused(sampling: dict[str, Any], unconditional: bool, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        generator(known=("ant", "bee"), unconditional=unconditional, **sampling)


def test_guidance_needs_classes() -> None:
    with pytest.raises(ConfigError, match="there is no class to be guided to"):
        generator(guidance=2.0)


def test_steps_are_fifty_or_all() -> None:
    assert set(generator().generate(range(2)).columns["steps"]) == {50}
    assert len(Sampling().times(20)) == 20
