"""What a decoder's numbers say about a row: log p(u | z), all constants kept, so that it is a density and no loss up to a constant.

u are the values in the units of the model: levels divided by the largest one (`discretised-logistic`), 0 and 1 (`bernoulli`),
standardised values (`gaussian`).

Letters: N rows, S samples of a row, D values of a row, P numbers a value that the decoder gives.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LikelihoodKind = Literal["gaussian", "bernoulli", "discretised-logistic"]
Scale = Literal["fixed", "shared", "per-dimension", "predicted"]


class Bernoulli(nn.Module):
    """Independent bits: `sum_d u l - softplus(l)`, l the logit."""

    numbers = 1

    def forward(self, u_ND: Tensor, numbers_NSPD: Tensor) -> Tensor:
        """Log-probability, nats [N, S]."""
        logits_NSD = numbers_NSPD[..., 0, :]
        return _dot(logits_NSD, u_ND) - F.softplus(logits_NSD).sum(2)

    def mean(self, numbers_SPD: Tensor) -> Tensor:
        """Probability of a 1, [S, D]."""
        return torch.sigmoid(numbers_SPD[..., 0, :])


class _Located(nn.Module):
    """A family with a location for each value, from the decoder, and a scale.

    Args:
        values: D.
        scale: `"fixed"`: `size`; `"shared"`: one that is learned; `"per-dimension"`: one a value; `"predicted"`: by the decoder,
            one a value and sample.
        size: the fixed scale, and the first one of those that are learned, in units of u.
        floor: no scale is smaller; without it a value that is always the same would have an infinite density.
    """

    def __init__(self, values: int, scale: Scale, size: float, floor: float) -> None:
        super().__init__()
        self._scale, self._floor, self._size = scale, floor, size
        self.numbers = 2 if scale == "predicted" else 1
        self._start = math.log(math.expm1(max(size - floor, 1e-6)))  # softplus of it is the rest of the first scale
        if scale in ("shared", "per-dimension"):
            self.raw_scale = nn.Parameter(torch.full((1 if scale == "shared" else values,), self._start))

    def mean(self, numbers_SPD: Tensor) -> Tensor:
        """Locations [S, D]."""
        return numbers_SPD[..., 0, :]

    def _split(self, numbers_NSPD: Tensor) -> tuple[Tensor, Tensor]:
        """Locations [N, S, D], and scales that go with them."""
        located = numbers_NSPD[..., 0, :]
        if self._scale == "fixed":
            return located, located.new_full((1,), self._size)
        raw = numbers_NSPD[..., 1, :] + self._start if self._scale == "predicted" else self.raw_scale
        return located, self._floor + F.softplus(raw.float())


class Gaussian(_Located):
    """Independent normal values: `-1/2 sum_d ((u - m) / s)^2 - sum_d log s - D/2 log 2 pi`."""

    def forward(self, u_ND: Tensor, numbers_NSPD: Tensor) -> Tensor:
        """Log-density, nats [N, S], with respect to u."""
        location_NSD, scale = self._split(numbers_NSPD)
        z_NSD = (u_ND[:, None] - location_NSD) / scale
        log_scales = scale.log().expand_as(z_NSD).sum(2)
        return -0.5 * z_NSD.square().sum(2) - log_scales - 0.5 * u_ND.shape[1] * math.log(2 * math.pi)


class DiscretisedLogistic(_Located):
    """Whole levels: the mass that a logistic distribution has between the middles of neighbouring levels (Salimans et al. 2017).

    With `a = (u - m + h) / s` and `b = (u - m - h) / s`, h half a level, the mass is
    `sigmoid(a) - sigmoid(b) = sigmoid(a) sigmoid(-b) (1 - e^(b - a))`, in which nothing cancels; the lowest level also takes what
    lies below it, the highest what lies above, so the masses of all levels sum to 1.

    Args:
        levels: their number; u is the level divided by `levels - 1`.
    """

    def __init__(self, values: int, scale: Scale, size: float, floor: float, levels: int) -> None:
        super().__init__(values, scale, size, floor)
        self._half = 0.5 / (levels - 1)

    def forward(self, u_ND: Tensor, numbers_NSPD: Tensor) -> Tensor:
        """Log-probability, nats [N, S]."""
        location_NSD, scale = self._split(numbers_NSPD)
        precision = scale.reciprocal()
        distance_NSD = (u_ND[:, None] - location_NSD) * precision
        margin = self._half * precision
        above, below = _indicator(u_ND > self._half), _indicator(u_ND < 1 - self._half)
        mass_NS = -_dot(F.softplus(-distance_NSD - margin), below) - _dot(F.softplus(distance_NSD - margin), above)
        width = (-torch.expm1(-2 * margin)).log().expand_as(distance_NSD)
        return mass_NS + _dot(width, above * below)

    def mean(self, numbers_SPD: Tensor) -> Tensor:
        """Locations [S, D], kept between the lowest level and the highest, which take the mass beyond them."""
        return super().mean(numbers_SPD).clamp(0, 1)


def _indicator(mask: Tensor) -> Tensor:
    return mask.to(torch.float32)


def _dot(values_NSD: Tensor, weights_ND: Tensor) -> Tensor:
    """Weighted sums over the values, [N, S]."""
    return torch.einsum("nsd,nd->ns", values_NSD, weights_ND.to(values_NSD.dtype))


def make_likelihood(
    kind: LikelihoodKind, values: int, *, scale: Scale, size: float, floor: float, levels: int
) -> Bernoulli | Gaussian | DiscretisedLogistic:
    """The likelihood of a configuration."""
    if kind == "bernoulli":
        return Bernoulli()
    if kind == "gaussian":
        return Gaussian(values, scale, size, floor)
    return DiscretisedLogistic(values, scale, size, floor, levels)
