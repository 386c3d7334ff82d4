"""Which of the T steps are taken: a sub-sequence of times, as explicit pairs of a time and the one before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from kxbatch.errors import ConfigError

Pair = tuple[int, int]


def spaced_times(steps: int, kept: int, spacing: Literal["trailing", "leading"] = "trailing") -> list[int]:
    """Times at even distances.

    Args:
        steps: T.
        kept: how many, 1 to T.
        spacing: `"trailing"` ends at T, where there is least of the data left; `"leading"` begins at 1 and stops short of T, as
            the first implementations did: 1, 101, ..., 901 for 10 of 1000.

    Returns:
        `kept` different times in ascending order.

    Raises:
        ConfigError: so many cannot be kept.
    """
    if not 1 <= kept <= steps:
        raise ConfigError(f"{kept} of {steps} steps cannot be kept: name 1 to {steps}")
    if spacing == "leading":
        return [1 + number * steps // kept for number in range(kept)]
    return [(2 * number * steps + kept) // (2 * kept) for number in range(1, kept + 1)]


def time_pairs(times: Sequence[int], steps: int) -> list[Pair]:
    """Pairs (t, time before it), latest first; the last is (first time, 0), which arrives at the data.

    Args:
        times: ascending, 1 to T, each once.
        steps: T.

    Raises:
        ConfigError: there are none, or they are out of order, repeated or beyond the schedule.
    """
    if not times:
        raise ConfigError("no times are given to step through: name at least one, or take `spaced_times`")
    for before, t in zip([0, *times], times, strict=False):
        if not 1 <= t <= steps:
            raise ConfigError(f"time {t} is not one of the schedule's: they go from 1 to {steps}, and 0 is the data")
        if t == before:
            raise ConfigError(f"time {t} is named twice: each time is stepped through once")
        if t < before:
            raise ConfigError(f"times are out of order: {t} stands after {before}. Give them in ascending order")
    return list(zip(reversed(times), [*reversed(times[:-1]), 0], strict=True))
