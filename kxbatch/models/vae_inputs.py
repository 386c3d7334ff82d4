"""From values as users have them to the units of the model, and what that does to a density.

`log p(x) = log p(u) + sum_d log |du_d / dx_d|`. With z = (x - centre) / spread, u is z, or `asinh(5 z) / 2`, which is linear near
the mean and logarithmic far from it: a value a thousand deviations out stays in the reach of a normal distribution, and of the
network. Whole levels are only divided by the largest, which changes no probability. All in float64 and outside of the network: a
large mean costs no digits, and no training in bf16 rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Transform = Literal["none", "standardize", "asinh", "levels"]
_STEEP = 5.0
_WIDTH = 2.0


@dataclass(frozen=True, eq=False)
class Inputs:
    """A map for each of D values, the same for all rows.

    Attributes:
        centre: float64 [D].
        spread: float64 [D], positive.
        transform: what is done with them.
    """

    centre: Floats
    spread: Floats
    transform: Transform

    @classmethod
    def levels(cls, values: int, levels: int) -> Inputs:
        """Of whole numbers 0 to `levels - 1`."""
        return cls(np.zeros(values), np.full(values, levels - 1.0), "levels")

    def __call__(self, values: Floats) -> npt.NDArray[np.float32]:
        """float64 [n, D] -> float32 [n, D]; NaN, a value to be filled, becomes the centre."""
        z = self._standardised(values)
        with np.errstate(over="ignore"):  # such a row is infinitely far from all others, and set aside
            return (np.arcsinh(_STEEP * z) / _WIDTH if self.transform == "asinh" else z).astype(np.float32)

    def inverse(self, u: npt.NDArray[np.float32]) -> Floats:
        """Values as users have them, float64 [n, D], of values in the units of the model, float32 [n, D]."""
        z = u.astype(np.float64)
        if self.transform == "asinh":
            z = np.sinh(_WIDTH * z) / _STEEP
        values: Floats = self.centre + self.spread * z
        return values

    def log_jacobian(self, values: Floats) -> Floats:
        """`sum_d log |du_d / dx_d|` of each row, nats [n]: to be added to a log-density of u."""
        if self.transform == "levels":
            return np.zeros(len(values))
        fixed: Floats = np.full(len(values), -np.log(self.spread).sum())
        if self.transform != "asinh":
            return fixed
        steepness = np.log(_STEEP / _WIDTH) - 0.5 * np.log1p((_STEEP * self._standardised(values)) ** 2)
        total: Floats = fixed + steepness.sum(axis=1)
        return total

    def _standardised(self, values: Floats) -> Floats:
        z: Floats = np.nan_to_num((values - self.centre) / self.spread, nan=0.0)
        return z
