"""Running sums over importance weights against direct formulas."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.models.importance import Weights, by_samples, ladder


def log_weights(rows: int, samples: int, spread: float = 3.0) -> torch.Tensor:
    return spread * torch.randn(rows, samples, generator=torch.Generator().manual_seed(rows * samples)) - 500


def test_sums_are_those_of_the_formulas() -> None:
    log_w = log_weights(8, 40).double()
    weights = Weights(8)
    weights.add(log_w)
    found = weights.estimates()
    scaled = torch.exp(log_w - log_w.max(dim=1, keepdim=True).values)
    torch.testing.assert_close(found.log_density, log_w.logsumexp(1) - math.log(40))
    torch.testing.assert_close(found.elbo, log_w.mean(1))
    torch.testing.assert_close(found.ess, scaled.sum(1) ** 2 / (scaled**2).sum(1))
    torch.testing.assert_close(found.largest, 1 / scaled.sum(1))
    torch.testing.assert_close(found.stderr, scaled.std(1) / scaled.mean(1) / math.sqrt(40))


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=8))
def test_chunks_change_nothing(chunks: list[int]) -> None:
    log_w = log_weights(3, sum(chunks), spread=20.0)
    whole, cut = Weights(3), Weights(3)
    whole.add(log_w)
    for part in log_w.split(chunks, dim=1):
        cut.add(part)
    for name, value in vars(whole.estimates()).items():
        torch.testing.assert_close(getattr(cut.estimates(), name), value, rtol=1e-10, atol=1e-10, equal_nan=True)


def test_one_sample_has_no_error_and_equal_weights_have_none() -> None:
    one, equal = Weights(1), Weights(1)
    one.add(torch.tensor([[-3.0]]))
    equal.add(torch.full((1, 50), -7.0))
    assert math.isnan(one.estimates().stderr.item())
    assert equal.estimates().stderr.item() == 0.0
    assert equal.estimates().ess.item() == pytest.approx(50)


def test_weights_that_are_all_zero_are_no_number_but_no_crash() -> None:
    none = Weights(2)
    none.add(torch.tensor([[-math.inf, -math.inf], [-1.0, -math.inf]]))
    found = none.estimates()
    assert found.log_density[0] == -math.inf
    assert found.log_density[1].item() == pytest.approx(-1 - math.log(2))


@given(st.integers(1, 6000))
def test_each_step_of_the_ladder_divides_the_next(samples: int) -> None:
    steps = ladder(samples)
    assert steps[0] == 1
    assert steps[-1] == samples
    assert all(b % a == 0 and b > a for a, b in itertools.pairwise(steps))


def test_estimates_never_fall_with_the_samples_row_by_row() -> None:
    log_w = log_weights(30, 5000)
    curve = by_samples(log_w)
    assert (curve.diff(dim=1) >= -1e-9).all()
    torch.testing.assert_close(curve[:, 0], log_w.double().mean(1))
    torch.testing.assert_close(curve[:, -1], log_w.double().logsumexp(1) - math.log(5000))
