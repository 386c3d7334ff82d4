"""How many examples: a moderate number that is the same every time, times `KXBATCH_FUZZ`."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings

TIMES = int(os.environ.get("KXBATCH_FUZZ", "1"))


def fuzzed(examples: int) -> Callable[[Any], Any]:
    """Settings of a fuzz test; with `KXBATCH_FUZZ` the examples differ from run to run."""
    return settings(
        max_examples=examples * TIMES,
        derandomize=TIMES == 1,
        database=None,
        phases=(Phase.explicit, Phase.generate),  # cases are short, and a smaller one would take minutes to find
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
