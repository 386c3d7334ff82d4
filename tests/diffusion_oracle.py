"""Data of which the best denoiser is known: a normal distribution, one point, a mixture in one dimension. Float64 throughout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm
from torch import Tensor

from kxbatch.kernels.diffusion import Denoiser, Prediction, RowNoise, Schedule, at


def _said(kind: Prediction, A: Tensor, B: Tensor, x: Tensor, x0: Tensor) -> Tensor:
    """What a denoiser of a kind says that believes in x0."""
    eps = (x - A * x0) / B
    return {"eps": eps, "x0": x0, "v": A * eps - B * x0}[kind]


def normal_denoiser(schedule: Schedule, variance: float = 1.0, kind: Prediction = "eps") -> Denoiser:
    """For data N(0, variance I): `E[x_0 | x] = A c x / (A^2 c + B^2)`; a variance of 0 is one point, the origin."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        A, B = at(schedule.A, t, x), at(schedule.B, t, x)
        return _said(kind, A, B, x, A * variance * x / (A**2 * variance + B**2))

    return Denoiser(schedule, predict, kind)


def point_denoiser(schedule: Schedule, point: Tensor, kind: Prediction = "eps") -> Denoiser:
    """For data that are one point."""

    def predict(x: Tensor, t: Tensor) -> Tensor:
        return _said(kind, at(schedule.A, t, x), at(schedule.B, t, x), x, point.to(x.dtype).expand_as(x))

    return Denoiser(schedule, predict, kind)


@dataclass(frozen=True)
class Mixture:
    """Every value of a sample is drawn on its own from a mixture of normal distributions."""

    shares: tuple[float, ...] = (0.3, 0.7)
    means: tuple[float, ...] = (-1.0, 0.6)
    sds: tuple[float, ...] = (0.2, 0.3)

    def denoiser(self, schedule: Schedule, kind: Prediction = "eps") -> Denoiser:
        """`E[x_0 | x]`, the components' own answers weighed by their shares in the density at x."""

        def predict(x: Tensor, t: Tensor) -> Tensor:
            A, B = at(schedule.A, t, x), at(schedule.B, t, x)
            logs, answers = [], []
            for share, mean, sd in zip(self.shares, self.means, self.sds, strict=True):
                spread = A**2 * sd**2 + B**2
                logs.append(np.log(share) - 0.5 * (x - A * mean) ** 2 / spread - 0.5 * spread.log())
                answers.append(mean + A * sd**2 / spread * (x - A * mean))
            x0 = (torch.stack(logs).softmax(0) * torch.stack(answers)).sum(0)
            return _said(kind, A, B, x, x0)

        return Denoiser(schedule, predict, kind)

    def cdf(self, x: NDArray[np.float64], signal: float = 1.0, noise: float = 0.0) -> NDArray[np.float64]:
        """Distribution function of `signal x_0 + noise eps`."""
        parts = zip(self.shares, self.means, self.sds, strict=True)
        return np.sum([w * norm.cdf(x, signal * m, np.hypot(signal * sd, noise)) for w, m, sd in parts], axis=0)

    def draw(self, rng: np.random.Generator, shape: Sequence[int]) -> Tensor:
        which = rng.choice(len(self.shares), size=tuple(shape), p=self.shares)
        return torch.from_numpy(rng.normal(np.array(self.means)[which], np.array(self.sds)[which]))


class Constant(RowNoise):
    """Noise that is one number everywhere: shows what a step does to its input and to its noise."""

    def __init__(self, value: float) -> None:
        super().__init__(0, [0])
        self._value = value

    def draw(
        self, t: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        return torch.full((1, *shape), self._value, dtype=dtype, device=device)
