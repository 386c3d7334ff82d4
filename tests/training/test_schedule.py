"""The learning rate by step: torch's schedulers and numpy as peers, and what holds for every shape."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from kxbatch.spec.training import ScheduleConfig
from kxbatch.training.schedule import rate_share

STEPS = 23


def of_torch(kind: str, warmup: int, floor: float) -> list[float]:
    """The same schedule put together from torch's parts, at a peak rate of 1."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peak = max(0, warmup - 1)
    fall = STEPS - 1 - peak
    after: LRScheduler = {
        "constant": lambda: ConstantLR(optimizer, factor=1.0),
        "linear": lambda: LinearLR(optimizer, 1.0, floor, fall),
        "cosine": lambda: CosineAnnealingLR(optimizer, fall, floor),
    }[kind]()
    scheduler: LRScheduler = after
    if peak:
        rise = LinearLR(optimizer, 1 / warmup, 1.0, peak)
        scheduler = SequentialLR(optimizer, [rise, after], [peak])
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
@pytest.mark.parametrize("warmup", [0, 1, 2, 7])
@pytest.mark.parametrize("floor", [0.0, 0.25])
@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")
def test_as_torch(kind: str, warmup: int, floor: float) -> None:
    schedule = ScheduleConfig.model_validate({"kind": kind, "warmup": warmup, "floor": floor})
    ours = [rate_share(step, STEPS, schedule) for step in range(STEPS)]
    np.testing.assert_allclose(ours, of_torch(kind, warmup, floor), atol=1e-12)


def test_points_are_joined_by_straight_lines_and_level_outside() -> None:
    points = ((3, 0.5), (10, 2.0), (12, 0.1))
    schedule = ScheduleConfig(kind="piecewise", points=points)
    ours = [rate_share(step, 20, schedule) for step in range(20)]
    np.testing.assert_allclose(ours, np.interp(range(20), *zip(*points, strict=True)), atol=1e-12)


@given(
    kind=st.sampled_from(["constant", "linear", "cosine"]),
    warmup=st.integers(0, 50),
    steps=st.integers(1, 60),
    floor=st.floats(0, 1),
)
def test_rises_to_the_peak_once_and_falls_to_the_floor(kind: str, warmup: int, steps: int, floor: float) -> None:
    schedule = ScheduleConfig.model_validate({"kind": kind, "warmup": warmup, "floor": floor})
    shares = [rate_share(step, steps, schedule) for step in range(steps + 5)]
    peak = max(0, warmup - 1)
    assert shares[0] > 0
    assert all(0 <= share <= 1 for share in shares)
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    falling = shares[peak:]
    assert all(a >= b - 1e-12 for a, b in pairwise(falling))
    if peak < steps:
        assert shares[peak] == 1
    if peak < steps - 1 and kind != "constant":
        assert shares[steps - 1 :] == pytest.approx([floor] * 6, abs=1e-12)
