"""How fast noise comes in: the four tables of a diffusion process, float64, and a name that tells schedules apart.

Two notations are about. The code keeps the square-root one (Su 2022), in which every factor stands as it is multiplied:

    x_t = a_t x_{t-1} + b_t e,    a_t^2 + b_t^2 = 1,    A_t = a_1 ... a_t,    B_t = sqrt(1 - A_t^2),    x_t = A_t x_0 + B_t e

Ho, Jain and Abbeel (2020) write alpha_t = a_t^2, beta_t = b_t^2 and alpha-bar_t = A_t^2. Times go from 1 to T, and 0 is the data
(A_0 = 1, B_0 = 0). Code that counts from 0 to T - 1, `diffusers` among it, calls t - 1 what is t here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kxbatch.errors import ConfigError, nearest

ScheduleKind = Literal["linear", "cosine", "su"]
Table = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Schedule:
    """A noise schedule of T steps. All tables are float64 [T + 1], by t.

    Attributes:
        identity: kind, T and parameters in one line; equal exactly when the schedules are.
        a: what a step keeps of the signal; `a[0] = 1`.
        b: standard deviation of the noise a step adds; `b[0] = 0`.
        A: what is left of the data after t steps.
        B: standard deviation of the noise after t steps.
        log_signal: `log A^2`; differences of it give what happens between two times without cancellation.
    """

    identity: str
    a: Table
    b: Table
    A: Table
    B: Table
    log_signal: Table

    @property
    def steps(self) -> int:
        """T."""
        return len(self.A) - 1

    @property
    def snr(self) -> Table:
        """Signal-to-noise ratio `A^2 / B^2`, infinite at t = 0."""
        return np.divide(self.A**2, self.B**2, out=np.full_like(self.A, np.inf), where=self.B > 0)

    def between(self, t: int, s: int) -> tuple[float, float]:
        """`A_t / A_s` and `1 - (A_t / A_s)^2`: a and b^2 of the single step from s to a later t."""
        ratio = self.log_signal[t] - self.log_signal[s]
        return float(np.exp(0.5 * ratio)), float(-np.expm1(ratio))

    def require(self, identity: str, where: str) -> None:
        """Refuses what was made with another schedule.

        Args:
            identity: of the schedule that `where` was made with.
            where: what was made, for the message ("checkpoint 'out/faces/step-9000'").

        Raises:
            ConfigError: the schedules differ.
        """
        if identity != self.identity:
            raise ConfigError(
                f"{where} was trained with the noise schedule '{identity}', and this run has '{self.identity}'. A denoiser knows"
                " only the noise it was trained with: write its schedule, or train again"
            )


def at(table: Table, t_B: Tensor, like_BD: Tensor) -> Tensor:
    """A table's values at each sample's time, ready to be multiplied.

    Args:
        table: float64 [T + 1].
        t_B: int64 [B], 0 to T.
        like_BD: [B, ...], which gives type, device and number of axes.

    Returns:
        [B, 1, ..., 1].
    """
    values_B = torch.tensor(table, device=like_BD.device)[t_B].to(like_BD.dtype)
    return values_B.reshape(-1, *[1] * (like_BD.ndim - 1))


def _linear(steps: int, first: float, last: float) -> Table:
    return np.linspace(first, last, steps)


def _cosine(steps: int, offset: float, most: float) -> Table:
    left = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    b2: Table = np.minimum(1 - left[1:] / left[:-1], most)
    return b2


def _su(steps: int, last: float) -> Table:
    return last * np.arange(1, steps + 1) / steps


_KINDS: dict[str, tuple[Callable[..., Table], dict[str, float]]] = {
    "linear": (_linear, {"first": 1e-4, "last": 0.02}),
    "cosine": (_cosine, {"offset": 0.008, "most": 0.999}),
    "su": (_su, {"last": 0.02}),
}


def make_schedule(kind: str, steps: int = 1000, **parameters: float) -> Schedule:
    """A schedule by name.

    - `linear` (Ho et al. 2020, section 4): `b_t^2` in even steps from `first` = 1e-4 to `last` = 0.02;
    - `cosine` (Nichol and Dhariwal 2021, equation 17): `A_t^2 = f(t) / f(0)`, `f(t) = cos^2((t/T + o) / (1 + o) pi/2)`, with
      `offset` o = 0.008 and no `b_t^2` above `most` = 0.999;
    - `su` (Su 2022): `a_t = sqrt(1 - last t / T)`, `last` = 0.02.

    The published numbers of `linear` and `su` are for T = 1000. With fewer steps raise `last` as T falls, or much of the data is
    left at T (`A[T]`), where sampling starts from pure noise.

    Args:
        kind: `"linear"`, `"cosine"` or `"su"`.
        steps: T.
        **parameters: those of the kind, as above.

    Raises:
        ConfigError: there is no such kind or parameter, or the numbers give no schedule.
    """
    if kind not in _KINDS:
        raise ConfigError(f"there is no noise schedule '{kind}'{nearest(kind, _KINDS)}. Schedules: {', '.join(_KINDS)}")
    rule, defaults = _KINDS[kind]
    for name in parameters:
        if name not in defaults:
            raise ConfigError(
                f"the noise schedule '{kind}' has no parameter '{name}'{nearest(name, defaults)}. It has: {', '.join(defaults)}"
            )
    if steps < 1:
        raise ConfigError(f"a noise schedule needs at least 1 step, not {steps}")
    chosen = {name: float(parameters.get(name, default)) for name, default in defaults.items()}
    identity = f"{kind}({', '.join([f'T={steps}', *(f'{name}={value!r}' for name, value in chosen.items())])})"
    b2 = rule(steps, **chosen)
    if not ((b2 > 0) & (b2 < 1)).all():
        raise ConfigError(
            f"the noise schedule '{identity}' has a step whose share of noise b^2 is not between 0 and 1: they go from"
            f" {b2.min():.6g} to {b2.max():.6g}"
        )
    return _tables(identity, np.concatenate([[0.0], b2]))


def _tables(identity: str, b2: Table) -> Schedule:
    log_signal = np.cumsum(np.log1p(-b2))
    made = [np.sqrt(1 - b2), np.sqrt(b2), np.exp(0.5 * log_signal), np.sqrt(-np.expm1(log_signal)), log_signal]
    for table in made:
        table.setflags(write=False)
    return Schedule(identity, *made)
