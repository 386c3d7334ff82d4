"""The learning rate of a step, as a share of its peak."""

from __future__ import annotations

import math
from itertools import pairwise

from kxbatch.spec.training import ScheduleConfig


def rate_share(step: int, steps: int, schedule: ScheduleConfig) -> float:
    """What the peak rate is multiplied with: the warm-up's share times that of the shape.

    The shape holds 1 until the warm-up's last step, and a falling one reaches `floor` at the last step of all; so each
    of the two values is met by a step of its own. The warm-up never starts from 0, for that step would be wasted.

    Args:
        step: number of the step, from 0.
        steps: optimiser steps of the whole training; what lies beyond keeps the last one's rate.
        schedule: warm-up and shape.

    Returns:
        0 or more; at most 1 unless a point of a piecewise schedule is above it.
    """
    warm = min(1.0, (step + 1) / schedule.warmup) if schedule.warmup else 1.0
    if schedule.kind == "piecewise":
        return warm * _between(schedule.points, step)
    peak = max(0, schedule.warmup - 1)
    if schedule.kind == "constant" or step <= peak:
        return warm
    done = min(1.0, (step - peak) / max(1, steps - 1 - peak))
    left = 1 - done if schedule.kind == "linear" else (1 + math.cos(math.pi * done)) / 2
    return warm * (schedule.floor + (1 - schedule.floor) * left)


def _between(points: tuple[tuple[int, float], ...], step: int) -> float:
    """Value at a step of straight lines through the points; level before the first and after the last."""
    if step <= points[0][0]:
        return points[0][1]
    for (from_step, from_share), (to_step, to_share) in pairwise(points):
        if step <= to_step:
            return from_share + (to_share - from_share) * (step - from_step) / (to_step - from_step)
    return points[-1][1]
