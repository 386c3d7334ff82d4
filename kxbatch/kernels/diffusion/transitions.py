"""One random step back in time: `p(x_s | x_t) = N(on_x0 x_0 + on_eps eps, variance I)`, x_0 and eps as the denoiser sees them.

The rules differ in how much noise is thought to have stayed in place (eta) and how much new noise is put in (variance):

    small   B_s b / B_t    what Bayes says for known data: exact when the data are one point
    large   b              exact when the data are N(0, I)

with `b^2 = 1 - (A_t / A_s)^2`, for neighbouring times and for any others (Su 2022, parts 3, 4, 7; Song, Meng and Ermon 2021).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion.process import posterior
from kxbatch.kernels.diffusion.schedule import Schedule


@dataclass(frozen=True)
class Transition:
    """A step from t to s.

    Attributes:
        on_x0: `A_s`.
        on_eps: `sqrt(B_s^2 - known)`.
        known: variance of `q(x_s | x_t, x_0)`, the step with known data that this one imitates.
        variance: of the noise to be added; not less than `known`.
    """

    on_x0: float
    on_eps: float
    known: float
    variance: float


class Rule(Protocol):
    """A way to step back."""

    def transition(self, schedule: Schedule, t: int, s: int) -> Transition:
        """The step from t, 1 to T, to an earlier s."""
        ...


@dataclass(frozen=True)
class Ancestral:
    """DDPM: `x_s = (x_t - (b^2 / B_t) eps) / a + sigma z` (Ho et al. 2020, algorithm 2).

    Attributes:
        large: sigma^2 between the two bounds: 0 small, 1 large. The mixture is linear in sigma^2, and so in the variance of the
            data given x_t, which is 0 for one point and B_t^2 for N(0, I).
    """

    large: float = 0.0

    def __post_init__(self) -> None:
        _within("large", self.large)

    def transition(self, schedule: Schedule, t: int, s: int) -> Transition:
        """The step from t to s."""
        known = posterior(schedule, t, s)
        _, b2 = schedule.between(t, s)
        signal, noise = float(schedule.A[t]), float(schedule.B[t])
        variance = known.variance + self.large * (b2 - known.variance)
        return Transition(known.on_x0 + known.on_x * signal, known.on_x * noise, known.variance, variance)


@dataclass(frozen=True)
class Ddim:
    """DDIM: `x_s = A_s x_0 + sqrt(B_s^2 - sigma^2) eps + sigma z`, `sigma = eta B_s b / B_t` (Song, Meng and Ermon 2021).

    Attributes:
        eta: 0 draws no noise after x_T, 1 is `Ancestral()`.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        _within("eta", self.eta)

    def transition(self, schedule: Schedule, t: int, s: int) -> Transition:
        """The step from t to s."""
        a, b2 = schedule.between(t, s)
        share = float(schedule.B[s] / schedule.B[t]) ** 2
        # 1 - eta^2 b^2 / B_t^2 without cancellation, from B_t^2 = b^2 + a^2 B_s^2
        left = 1 - self.eta**2 + self.eta**2 * a**2 * share
        known = self.eta**2 * share * b2
        return Transition(float(schedule.A[s]), float(schedule.B[s]) * math.sqrt(left), known, known)


@dataclass(frozen=True)
class AnalyticDpm:
    """The best variance for a given denoiser: `sigma^2 + g^2 v` (Bao et al. 2022, theorem 1; Su 2022, part 7).

    `g = A_s - A_t sqrt(B_s^2 - sigma^2) / B_t`, and `v = (B_t^2 / A_t^2) (1 - E|eps|^2 / d)` is what is not known of a value of
    the data at x_t, kept within [0, `most`].

    Attributes:
        energy: `E|eps|^2 / d` of the denoiser at each time, from `noise_energy`.
        eta: of the DDIM step it improves; 1 is ancestral sampling.
        most: no value of the data varies more: 1 for data in [-1, 1], and for standardised data.
    """

    energy: Mapping[int, float]
    eta: float = 1.0
    most: float = 1.0

    def transition(self, schedule: Schedule, t: int, s: int) -> Transition:
        """The step from t to s.

        Raises:
            ConfigError: the energy at t is not known.
        """
        if t not in self.energy:
            raise ConfigError(
                f"the energy of the noise was not measured at time {t}: measure it at every time that is sampled"
            )
        plain = Ddim(self.eta).transition(schedule, t, s)
        signal, noise = float(schedule.A[t]), float(schedule.B[t])
        gain = plain.on_x0 - signal * plain.on_eps / noise
        unknown = min(max((noise / signal) ** 2 * (1 - self.energy[t]), 0.0), self.most)
        return Transition(plain.on_x0, plain.on_eps, plain.known, plain.known + gain**2 * unknown)


def _within(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ConfigError(f"{name} is {value}: it goes from 0 to 1")
