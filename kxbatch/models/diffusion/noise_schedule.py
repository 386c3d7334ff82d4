"""Which noise schedule, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import Schedule, ScheduleKind, make_schedule


@dataclass(frozen=True)
class NoiseSchedule:
    """Arguments of `kernels.diffusion.make_schedule`.

    Attributes:
        kind: `"linear"`, `"cosine"` or `"su"`.
        steps: T.
        parameters: those of the kind that are not the usual ones.
    """

    kind: ScheduleKind = "linear"
    steps: int = 1000
    parameters: dict[str, float] = field(default_factory=dict)

    def make(self) -> Schedule:
        """The tables.

        Raises:
            ConfigError: the numbers give no schedule.
        """
        return make_schedule(self.kind, self.steps, **self.parameters)

    def to_json(self) -> dict[str, Any]:
        """JSON values, with the schedule's identity for people and for checks."""
        return asdict(self) | {"identity": self.make().identity}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> NoiseSchedule:
        """What `to_json` wrote.

        Raises:
            ConfigError: the numbers give no schedule, or not the one whose identity is told.
        """
        told = values["identity"]
        found = cls(values["kind"], values["steps"], values["parameters"])
        made = found.make().identity
        if made != told:
            raise ConfigError(f"the schedule is said to be '{told}', but its numbers are those of '{made}'")
        return found
