"""Between noise and data without chance: the probability-flow ODE, in both directions.

With `y = x / A` and `r = B / A`, the ODE is `dy / dr = eps(x_t, t)` (Song, Meng and Ermon 2021, equation 14). DDIM with eta = 0
is Euler's method on it; two looks at the denoiser a step make the error fall with the square of the step.

Letters: B samples, D the values of a sample in whatever shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.diffusion.denoiser import Denoiser
from kxbatch.kernels.diffusion.schedule import Schedule
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
            nearest to its middle in r. The last two look twice a step. Heun's last step is Euler's, since there is no denoiser at
            time 0; so is a midpoint step without a time in between.

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
    schedule = denoiser.schedule
    slope_BD = _eps(denoiser, x_BD, t)
    between = {"euler": None, "heun": to or None, "midpoint": _middle(schedule, t, to)}[solver]
    if between is None:
        return _line(schedule, x_BD, slope_BD, t, to)
    ratio = schedule.B / schedule.A
    # Runge-Kutta of order 2 with its second look at any part of the way: 1 is Heun's method, 1/2 the midpoint rule
    part = float((ratio[between] - ratio[t]) / (ratio[to] - ratio[t]))
    later_BD = _eps(denoiser, _line(schedule, x_BD, slope_BD, t, between), between)
    return _line(schedule, x_BD, torch.lerp(slope_BD, later_BD, 0.5 / part), t, to)


def _eps(denoiser: Denoiser, x_BD: Tensor, t: int) -> Tensor:
    return denoiser(x_BD, max(t, 1))[1]


def _line(schedule: Schedule, x_BD: Tensor, slope_BD: Tensor, t: int, to: int) -> Tensor:
    """`y += slope (r' - r)` written for x."""
    kept = float(schedule.A[to] / schedule.A[t])
    return kept * x_BD + (float(schedule.B[to]) - kept * float(schedule.B[t])) * slope_BD


def _middle(schedule: Schedule, t: int, to: int) -> int | None:
    """The time strictly between two whose r is nearest to their middle; None if there is none."""
    low, high = min(t, to) + 1, max(t, to)
    if low == high:
        return None
    ratio = schedule.B / schedule.A
    return low + int(np.abs(ratio[low:high] - 0.5 * (ratio[t] + ratio[to])).argmin())
