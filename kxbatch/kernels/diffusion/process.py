"""Noise going in, and what Bayes says of the way back when the data are known.

Letters: B samples, D the values of a sample in whatever shape it has (a vector, or channels by height by width).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kxbatch.kernels.diffusion.noise import RowNoise
from kxbatch.kernels.diffusion.schedule import Schedule, at


def q_sample(schedule: Schedule, x0_BD: Tensor, eps_BD: Tensor, t_B: Tensor) -> Tensor:
    """The forward process in one leap: `x_t = A_t x_0 + B_t eps`.

    Args:
        schedule: of the process.
        x0_BD: floating point [B, ...], data.
        eps_BD: the same shape, standard normal.
        t_B: int64 [B], 0 to T.

    Returns:
        [B, ...] in the type of the data; the factors are float64 until they meet it.
    """
    return at(schedule.A, t_B, x0_BD) * x0_BD + at(schedule.B, t_B, x0_BD) * eps_BD


def noised(schedule: Schedule, x0_BD: Tensor, noise: RowNoise, t: int) -> Tensor:
    """x_t [B, ...] of data, with the noise that belongs to its rows at time t."""
    eps_BD = noise.draw(t, x0_BD.shape[1:], x0_BD.dtype, x0_BD.device)
    return float(schedule.A[t]) * x0_BD + float(schedule.B[t]) * eps_BD


@dataclass(frozen=True)
class Posterior:
    """`p(x_s | x_t, x_0) = N(on_x x_t + on_x0 x_0, variance I)`.

    Attributes:
        on_x: `a B_s^2 / B_t^2`.
        on_x0: `A_s b^2 / B_t^2`.
        variance: `B_s^2 b^2 / B_t^2`.
    """

    on_x: float
    on_x0: float
    variance: float


def posterior(schedule: Schedule, t: int, s: int) -> Posterior:
    """Bayes' theorem for the step from t back to any earlier s (Su 2022, part 3, equation 5; Ho et al. 2020, equation 7).

    The numbers of a sub-sequence are those of a single step with `a = A_t / A_s` and `b^2 = 1 - a^2`.

    Args:
        schedule: of the process.
        t: 1 to T.
        s: 0 to t - 1.
    """
    a, b2 = schedule.between(t, s)
    before2, after2 = float(schedule.B[s]) ** 2, float(schedule.B[t]) ** 2
    return Posterior(a * before2 / after2, float(schedule.A[s]) * b2 / after2, before2 * b2 / after2)
