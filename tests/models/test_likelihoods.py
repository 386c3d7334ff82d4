"""Likelihoods against torch.distributions, and against what every distribution must do: sum to one."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import distributions

from kxbatch.models.likelihoods import Bernoulli, DiscretisedLogistic, Gaussian


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(
    levels=st.integers(2, 256),
    place=st.floats(-3.0, 4.0),
    scale=st.floats(1e-3, 3.0),
)
def test_the_masses_of_all_levels_sum_to_one(levels: int, place: float, scale: float) -> None:
    likelihood = DiscretisedLogistic(1, "fixed", scale, 0.0, levels)
    u = (torch.arange(levels) / (levels - 1))[:, None]
    numbers = torch.full((levels, 1, 1, 1), place)
    log_mass = likelihood(u, numbers)
    assert torch.isfinite(log_mass).all()  # far out, where both sigmoids are 0 or 1 in float32, nothing is lost
    assert log_mass.double().logsumexp(0).item() == pytest.approx(0.0, abs=2e-6 * levels)


def test_a_level_has_the_mass_of_the_logistic_distribution_around_it() -> None:
    levels, s = 17, 0.08
    likelihood = DiscretisedLogistic(1, "fixed", s, 0.0, levels)
    middle = 0.4
    for level in range(levels):
        u, half = level / (levels - 1), 0.5 / (levels - 1)
        above = 1.0 if level == levels - 1 else 1 / (1 + math.exp(-(u + half - middle) / s))
        below = 0.0 if level == 0 else 1 / (1 + math.exp(-(u - half - middle) / s))
        found = likelihood(torch.tensor([[u]]), torch.full((1, 1, 1, 1), middle)).item()
        assert found == pytest.approx(math.log(above - below), rel=1e-4)


@pytest.mark.parametrize("scale", ["fixed", "shared", "per-dimension", "predicted"])
def test_gaussian_equals_torch(scale: str) -> None:
    u, located, raw = rows(4, 6), rows(4, 3, 1, 6, seed=1), rows(4, 3, 1, 6, seed=2)
    likelihood = Gaussian(6, scale, 0.7, 0.01)  # type: ignore[arg-type]
    numbers = torch.cat([located, raw], dim=2) if scale == "predicted" else located
    with torch.no_grad():
        _, sizes = likelihood._split(numbers)
        wanted = distributions.Normal(located[:, :, 0], sizes).log_prob(u[:, None]).sum(2)
        torch.testing.assert_close(likelihood(u, numbers), wanted)
    if scale in ("shared", "per-dimension"):
        assert sizes.tolist() == pytest.approx([0.7] * len(sizes))  # where learning begins


def test_no_scale_is_below_the_floor() -> None:
    likelihood = Gaussian(2, "predicted", 1.0, 0.25)
    _, sizes = likelihood._split(torch.full((1, 1, 2, 2), -50.0))
    assert sizes.min().item() == pytest.approx(0.25)


def test_bernoulli_equals_torch() -> None:
    u, logits = (rows(5, 7) > 0).float(), 4 * rows(5, 2, 1, 7, seed=3)
    wanted = distributions.Bernoulli(logits=logits[:, :, 0]).log_prob(u[:, None]).sum(2)
    torch.testing.assert_close(Bernoulli()(u, logits), wanted)
