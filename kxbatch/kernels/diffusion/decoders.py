"""The last step of a diffusion model: the probability of data around the denoiser's guess, independent Gaussians of one variance.

Whole levels 0 to L - 1 lie in [-1, 1] at distances of `2 / (L - 1)`; those of 8-bit data are `level / 127.5 - 1`.

Letters: B samples, D the values of a sample in whatever shape, F the same laid flat.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from kxbatch.errors import ConfigError, DataError, nearest

Decoder = Literal["levels", "density"]
LogLikelihood = Callable[[Tensor, Tensor, float], Tensor]
LEVELS = 256  # of 8-bit data
_OFF = 1e-3  # of the distance of two levels, that a value may lie off its level: float32 rounds 2^16 of them so


def log_level_mass(x0_BD: Tensor, mean_BD: Tensor, variance: float, levels: int = LEVELS) -> Tensor:
    """Log-probability of whole levels in [-1, 1] under a Gaussian cut into L of them (Ho et al. 2020, equation 13).

    A level's mass is `Phi(u) - Phi(l)`, u and l the middles between it and its neighbours; the outermost levels take the tails, so
    all masses sum to 1. Where both ends are above the mean the mirrored ends are taken, so that nothing cancels far out.

    Args:
        x0_BD: `2 level / (L - 1) - 1`.
        mean_BD: the same shape.
        variance: in the units of x0.
        levels: L, 2 or more.

    Returns:
        Nats, float64 [B].
    """
    half = 1 / (levels - 1)  # of the distance of two levels
    level_BF = _places(x0_BD.flatten(1), levels).round()
    away_BF, scale = 2 * half * level_BF - 1 - mean_BD.double().flatten(1), math.sqrt(variance)
    lower_BF = ((away_BF - half) / scale).masked_fill(level_BF < 0.5, -math.inf)
    upper_BF = ((away_BF + half) / scale).masked_fill(level_BF > levels - 1.5, math.inf)
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


def decoder_for(kind: str, x0_BD: Tensor, levels: int = LEVELS) -> LogLikelihood:
    """`log_level_mass` of these levels, or `log_normal`, if the data suit it.

    Raises:
        ConfigError: there is no such decoder, or fewer than 2 levels.
        DataError: it is `"levels"`, and a value is none of them.
    """
    kinds: dict[str, LogLikelihood] = {"levels": partial(log_level_mass, levels=levels), "density": log_normal}
    if kind not in kinds:
        raise ConfigError(f"there is no decoder '{kind}'{nearest(kind, kinds)}. Decoders: {', '.join(kinds)}")
    if kind == "levels":
        _check_levels(x0_BD, levels)
    return kinds[kind]


def _places(x0_BD: Tensor, levels: int) -> Tensor:
    """Levels of data in [-1, 1], float64: whole numbers but for rounding."""
    return (x0_BD.double() + 1) * (0.5 * (levels - 1))


def _check_levels(x0_BD: Tensor, levels: int) -> None:
    if levels < 2:
        raise ConfigError(f"levels = {levels}: a decoder of whole levels needs 2 or more of them")
    place_BD = _places(x0_BD, levels)
    level_BD = place_BD.round()
    fits_BD = ((place_BD - level_BD).abs() <= _OFF) & (level_BD >= 0) & (level_BD < levels)
    if not bool(fits_BD.all()):
        eight = " of 8-bit data" if levels == LEVELS else ""
        raise DataError(
            f"{float(x0_BD[~fits_BD][0]):.6g} is none of the {levels} levels{eight}, which are level / {(levels - 1) / 2:g} - 1 for"
            f" 0 to {levels - 1}: scale the data so, or take the decoder 'density'"
        )
