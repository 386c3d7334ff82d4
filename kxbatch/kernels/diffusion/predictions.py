"""What a denoiser may be asked for, how the answers turn into each other, and how its errors are weighed.

With `x_t = A_t x_0 + B_t eps`, three targets say the same: `eps`, `x0`, and `v = A_t eps - B_t x_0` (Salimans and Ho 2022).
Their errors at one time are multiples of each other:

    |eps - eps'|^2 = SNR |x_0 - x_0'|^2,    |v - v'|^2 = (SNR + 1) |x_0 - x_0'|^2,    SNR = A_t^2 / B_t^2

Letters: B samples, D the values of a sample in whatever shape.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.diffusion.schedule import Schedule, Table, at

Prediction = Literal["eps", "x0", "v"]
Weighting = Literal["simple", "snr", "min-snr"]

PREDICTIONS: tuple[Prediction, ...] = ("eps", "x0", "v")
WEIGHTINGS: tuple[Weighting, ...] = ("simple", "snr", "min-snr")


def target(kind: Prediction, schedule: Schedule, x0_BD: Tensor, eps_BD: Tensor, t_B: Tensor) -> Tensor:
    """What a denoiser of this kind should say for `q_sample(schedule, x0_BD, eps_BD, t_B)`, [B, ...]."""
    _known(kind, PREDICTIONS)
    if kind == "eps":
        return eps_BD
    if kind == "x0":
        return x0_BD
    return at(schedule.A, t_B, x0_BD) * eps_BD - at(schedule.B, t_B, x0_BD) * x0_BD


def x0_and_eps(
    kind: Prediction, said_BD: Tensor, x_BD: Tensor, signal: float | Tensor, noise: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Data and noise that a prediction stands for.

    Args:
        kind: what was predicted.
        said_BD: the prediction [B, ...].
        x_BD: what it was made from, the same shape.
        signal: A_t, a number or [B, 1, ..., 1]; not 0.
        noise: B_t likewise; not 0.

    Returns:
        x_0 and eps, with `signal x_0 + noise eps = x`.
    """
    _known(kind, PREDICTIONS)
    if kind == "eps":
        return (x_BD - noise * said_BD) / signal, said_BD
    if kind == "x0":
        return said_BD, (x_BD - signal * said_BD) / noise
    return signal * x_BD - noise * said_BD, noise * x_BD + signal * said_BD


def loss_weights(weighting: Weighting, kind: Prediction, schedule: Schedule, gamma: float = 5.0) -> Table:
    """Factor on the squared error of a prediction of this kind.

    - `simple`: 1, whatever is predicted (Ho et al. 2020, equation 14, for eps);
    - `snr`: the error in x_0 counts SNR times, so that all kinds have the loss that `simple` gives to eps;
    - `min-snr`: the error in x_0 counts min(SNR, gamma) times (Hang et al. 2023, section 3.4).

    Args:
        weighting: as above.
        kind: what the denoiser predicts.
        schedule: of the process.
        gamma: of `min-snr`.

    Returns:
        float64 [T + 1] by t; 0 at t = 0, where nothing is trained.

    Raises:
        ConfigError: there is no such weighting or kind, or gamma is not above 0.
    """
    _known(weighting, WEIGHTINGS)
    _known(kind, PREDICTIONS)
    if gamma <= 0:
        raise ConfigError(f"gamma of the min-snr weighting is {gamma}: it must be above 0 (5 is usual)")
    snr = schedule.snr[1:]
    if weighting == "simple":
        found = np.ones_like(snr)
    else:
        on_x0 = snr if weighting == "snr" else np.minimum(snr, gamma)
        found = on_x0 / {"eps": snr, "x0": np.ones_like(snr), "v": snr + 1}[kind]
    return np.concatenate([[0.0], found])


def _known(name: str, allowed: tuple[str, ...]) -> None:
    if name not in allowed:
        raise ConfigError(f"'{name}' is none of {', '.join(allowed)}{nearest(name, allowed)}")
