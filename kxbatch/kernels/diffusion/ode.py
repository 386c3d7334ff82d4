"""Between noise and data without chance: the probability-flow ODE, in both directions.

With the angle `p = arctan(B / A)` for time, the ODE is `dx / dp = v`, `v = A eps - B x_0` (Salimans and Ho 2022, appendix D;
it is equation 14 of Song, Meng and Ermon 2021 in bounded variables, so that a schedule may end in all but pure noise). If x_0 and
eps stay as they are, x and v turn like the hand of a clock:

    x' = cos(d) x + sin(d) v,    d = p' - p

This step is DDIM with eta = 0, the Euler method of the ODE. A second look at the denoiser on the way, turned back to where the step
starts, corrects v, and the error falls with the square of the step (Runge-Kutta of order 2 in the turning frame). Both are exact
for data that are one point.

Letters: B samples, D the values of a sample in whatever shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.diffusion.denoiser import Denoiser
from kxbatch.kernels.diffusion.schedule import Table
from kxbatch.kernels.diffusion.times import time_pairs

Solver = Literal["euler", "heun", "midpoint"]
SOLVERS: tuple[Solver, ...] = ("euler", "heun", "midpoint")


@torch.no_grad()
def decode(denoiser: Denoiser, x_BD: Tensor, times: Sequence[int], solver: Solver = "euler") -> Tensor:
    """From a latent to data.

    Args:
        denoiser: reads x_t.
        x_BD: [B, ...] at the last of the times: noise, or what `encode` gave for the same times.
        times: ascending sub-sequence of 1 to T.
        solver: `"euler"` is DDIM with eta = 0; `"heun"` looks at both ends of a step; `"midpoint"` at its start and at the time
            nearest to its middle, or at both ends where no time lies in between. The last two look twice a step, but for
            the step onto the data: there is no denoiser at time 0, so Heun's method ends with a step of Euler's.

    Returns:
        x_0 [B, ...].

    Raises:
        ConfigError: the times are no sub-sequence of the schedule's, or there is no such solver.
    """
    for t, s in _pairs(denoiser, times, solver):
        x_BD = _step(denoiser, x_BD, t, s, solver)
    return x_BD


@torch.no_grad()
def encode(denoiser: Denoiser, x0_BD: Tensor, times: Sequence[int], solver: Solver = "euler") -> Tensor:
    """From data to its latent: the ODE run forward. `decode` undoes it but for the error of the solver.

    Args:
        denoiser: reads x_t; where the ODE asks for time 0, it is asked for time 1.
        x0_BD: data [B, ...].
        times: ascending sub-sequence of 1 to T.
        solver: as in `decode`.

    Returns:
        x_t [B, ...] at the last of the times.

    Raises:
        ConfigError: as in `decode`.
    """
    x_BD = x0_BD
    for t, s in reversed(_pairs(denoiser, times, solver)):
        x_BD = _step(denoiser, x_BD, s, t, solver)
    return x_BD


def slerp(x_BD: Tensor, y_BD: Tensor, share: float) -> Tensor:
    """Latents on the great circle from x to y: `(sin((1 - share) w) x + sin(share w) y) / sin w`, w the angle between them.

    A straight line would lead through latents too short to be noise. Two that (all but) lie on one line have no great circle, and
    are joined by the line.

    Args:
        x_BD: [B, ...].
        y_BD: the same shape.
        share: 0 gives x, 1 gives y.
    """
    x_BF, y_BF = x_BD.double().flatten(1), y_BD.double().flatten(1)
    cosine_B = torch.cosine_similarity(x_BF, y_BF, dim=1).clamp(-1, 1)
    angle_B = cosine_B.acos()
    sine_B = angle_B.sin()
    straight_B = sine_B < 1e-6
    safe_B = torch.where(straight_B, torch.ones_like(sine_B), sine_B)
    on_x_B = torch.where(straight_B, torch.full_like(sine_B, 1 - share), ((1 - share) * angle_B).sin() / safe_B)
    on_y_B = torch.where(straight_B, torch.full_like(sine_B, share), (share * angle_B).sin() / safe_B)
    return (on_x_B[:, None] * x_BF + on_y_B[:, None] * y_BF).to(x_BD.dtype).reshape(x_BD.shape)


def _pairs(denoiser: Denoiser, times: Sequence[int], solver: str) -> list[tuple[int, int]]:
    if solver not in SOLVERS:
        raise ConfigError(f"there is no ODE solver '{solver}'{nearest(solver, SOLVERS)}. Solvers: {', '.join(SOLVERS)}")
    return time_pairs(times, denoiser.schedule.steps)


def _step(denoiser: Denoiser, x_BD: Tensor, t: int, to: int, solver: Solver) -> Tensor:
    """From t to any other time, earlier or later."""
    angles = np.arctan2(denoiser.schedule.B, denoiser.schedule.A)
    start = float(angles[t])
    v_BD = _velocity(denoiser, x_BD, t, start)
    between = _second_look(angles, t, to, solver)
    if between is not None:
        # part of the way at which it looks again: 1 is Heun's method, 1/2 the midpoint rule
        part = float((angles[between] - start) / (angles[to] - start))
        there_BD = _turn(x_BD, v_BD, float(angles[between]) - start)
        v_BD = torch.lerp(v_BD, _velocity(denoiser, there_BD, between, start), 0.5 / part)
    return _turn(x_BD, v_BD, float(angles[to]) - start)


def _velocity(denoiser: Denoiser, x_BD: Tensor, t: int, angle: float) -> Tensor:
    """The velocity at an angle, of what the denoiser sees at time t."""
    x0_BD, eps_BD = denoiser(x_BD, max(t, 1))
    return math.cos(angle) * eps_BD - math.sin(angle) * x0_BD


def _turn(x_BD: Tensor, v_BD: Tensor, angle: float) -> Tensor:
    return math.cos(angle) * x_BD + math.sin(angle) * v_BD


def _second_look(angles: Table, t: int, to: int, solver: Solver) -> int | None:
    """The other time at which a step asks the denoiser; None if it asks once."""
    low, high = min(t, to) + 1, max(t, to)
    if solver == "midpoint" and low < high:
        return low + int(np.abs(angles[low:high] - 0.5 * (angles[t] + angles[to])).argmin())
    return None if solver == "euler" or to == 0 else to
