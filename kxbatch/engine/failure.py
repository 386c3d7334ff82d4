"""A unit that was not done: why, and what follows from it."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Literal

from kxbatch.engine.units import Unit
from kxbatch.errors import BudgetExceeded, ConfigError, DataError, FatalError

Policy = Literal["retry", "park", "stop"]


@dataclass(frozen=True)
class Failure:
    """A unit that was not done, and what the engine should do about it."""

    phase: str
    key: str
    error: str
    message: str
    policy: Policy
    exit_code: int
    trace: str = ""
    worker: str = ""
    attempt: int = 1


def failure_of(error: Exception, unit: Unit, worker: str, attempt: int) -> Failure:
    """What to do about an exception, by its type."""
    policy: Policy = "retry"
    exit_code = 3
    if isinstance(error, (ConfigError, FatalError, BudgetExceeded)):
        policy, exit_code = "stop", error.exit_code
    elif isinstance(error, DataError):
        policy = "park"
    trace = "" if isinstance(error, (ConfigError, DataError)) else traceback.format_exc()
    name = type(error).__name__
    return Failure(unit.phase, unit.key, name, str(error) or name, policy, exit_code, trace, worker, attempt)
