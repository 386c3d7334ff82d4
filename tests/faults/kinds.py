"""All kinds of faults, by the name they have in the table, and how many of each a default run injects."""

from __future__ import annotations

from faults.live_trials import LIVE_KINDS
from faults.ray_trials import RAY_KINDS
from faults.trials import QUICK_KINDS, Trial

KINDS: dict[str, Trial] = QUICK_KINDS | LIVE_KINDS | RAY_KINDS
DEFAULT = 7 * len(QUICK_KINDS)  # quick faults of a default run; the others come once for each time that number


def trials_of(kind: str, count: int) -> int:
    """How many trials of a kind make a run of `count` quick faults."""
    return max(1, round(count / len(QUICK_KINDS))) if kind in QUICK_KINDS else max(1, round(count / DEFAULT))
