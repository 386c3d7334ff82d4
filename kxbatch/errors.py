"""Errors are types with policy: what the engine does follows from the type, what a person does from the words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class KxbatchError(Exception):
    """Base of every error that kxbatch raises on purpose; `exit_code` is what a verb ends with."""

    exit_code = 1


class ConfigError(KxbatchError):
    """What the user asked for cannot be done as written. Nothing ran; mend the job file or the command."""

    exit_code = 2


class DataError(KxbatchError):
    """Data that cannot be used, and would not get better by trying again: the shard is parked."""

    exit_code = 3


class BudgetExceeded(KxbatchError):
    """More rows were set aside than the job allows, or a quality gate said no."""

    exit_code = 4


class LeaseHeld(KxbatchError):
    """Another run is writing the same output."""

    exit_code = 75


class RetryableError(KxbatchError):
    """A passing fault (throttling, a lost node): the same unit of work is tried again, up to a limit."""


class FatalError(KxbatchError):
    """Going on would do harm or cannot succeed for any shard (disk full, broken model): the run stops."""


class Abandoned(BaseException):
    """A second signal: units in flight are given up. Nothing half-written becomes visible."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = 128 + number


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Words that name the closest allowed spelling.

    Args:
        name: what was written.
        allowed: every spelling that would have been right.

    Returns:
        `"; did you mean 'x'?"`, or an empty string when nothing is close.
    """
    found = difflib.get_close_matches(name, list(allowed), n=1, cutoff=0.6)
    return f"; did you mean '{found[0]}'?" if found else ""
