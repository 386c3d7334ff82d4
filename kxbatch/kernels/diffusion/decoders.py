"""The last step of a diffusion model: the probability of data around the denoiser's guess, independent Gaussians of one variance.

Letters: B samples, D the values of a sample in whatever shape, F the same laid flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from kxbatch.errors import ConfigError, DataError, nearest

Decoder = Literal["levels", "density"]
LogLikelihood = Callable[[Tensor, Tensor, float], Tensor]
LEVELS = 256  # of 8-bit data
_HALF = 1 / (LEVELS - 1)  # half the distance of two levels in [-1, 1]


def log_level_mass(x0_BD: Tensor, mean_BD: Tensor, variance: float) -> Tensor:
    """Log-probability of 8-bit data in [-1, 1] under a Gaussian cut into 256 levels (Ho et al. 2020, equation 13).

    A level's mass is `Phi(u) - Phi(l)`, u and l the middles between it and its neighbours; the outermost levels take the tails, so
    all masses sum to 1. Where both ends are above the mean the mirrored ends are taken, so that nothing cancels far out.

    Args:
        x0_BD: `level / 127.5 - 1`.
        mean_BD: the same shape.
        variance: in the units of x0.

    Returns:
        Nats, float64 [B].
    """
    x0_BF = x0_BD.double().flatten(1)
    away_BF, scale = x0_BF - mean_BD.double().flatten(1), math.sqrt(variance)
    lower_BF = ((away_BF - _HALF) / scale).masked_fill(x0_BF < -1 + _HALF, -math.inf)
    upper_BF = ((away_BF + _HALF) / scale).masked_fill(x0_BF > 1 - _HALF, math.inf)
    mirrored_BF = lower_BF + upper_BF > 0
    low_BF = torch.special.log_ndtr(torch.where(mirrored_BF, -upper_BF, lower_BF))
    high_BF = torch.special.log_ndtr(torch.where(mirrored_BF, -lower_BF, upper_BF))
    mass_BF: Tensor = high_BF + torch.log(-torch.expm1(low_BF - high_BF))
    return mass_BF.sum(1)


def log_normal(x0_BD: Tensor, mean_BD: Tensor, variance: float) -> Tensor:
    """Log-density of a Gaussian with one variance, nats, float64 [B]."""
    away_BF = (x0_BD.double() - mean_BD.double()).flatten(1)
    doubled_BF = away_BF.square() / variance + math.log(2 * math.pi * variance)
    return -0.5 * doubled_BF.sum(1)


_DECODERS: dict[str, LogLikelihood] = {"levels": log_level_mass, "density": log_normal}


def decoder_for(kind: str, x0_BD: Tensor) -> LogLikelihood:
    """`log_level_mass` or `log_normal`, if the data suit it.

    Raises:
        ConfigError: there is no such decoder.
        DataError: it is `"levels"`, and a value is none of the 256 levels.
    """
    if kind not in _DECODERS:
        raise ConfigError(f"there is no decoder '{kind}'{nearest(kind, _DECODERS)}. Decoders: {', '.join(_DECODERS)}")
    if kind == "levels":
        _check_levels(x0_BD)
    return _DECODERS[kind]


def _check_levels(x0_BD: Tensor) -> None:
    place_BD = (x0_BD.double() + 1) * (0.5 / _HALF)
    level_BD = place_BD.round()
    fits_BD = ((place_BD - level_BD).abs() <= 1e-3) & (level_BD >= 0) & (level_BD < LEVELS)
    if not bool(fits_BD.all()):
        raise DataError(
            f"{float(x0_BD[~fits_BD][0]):.6g} is none of the 256 levels of 8-bit data, which are level / 127.5 - 1 for 0 to 255:"
            " scale the data so, or take the decoder 'density'"
        )
