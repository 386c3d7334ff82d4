"""From values as users have them to the units of the model, and what that does to a density.

`u = (x - centre) / spread`, so `log p(x) = log p(u) - sum_d log spread_d`. Whole levels are only divided by the largest, which
changes no probability. In float64, outside of the network: a large mean costs no digits, and no training in bf16 rounds it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Inputs:
    """An affine map for each of D values.

    Attributes:
        centre: float64 [D].
        spread: float64 [D], positive.
        discrete: whether rows have probabilities, which no change of units touches.
    """

    centre: Floats
    spread: Floats
    discrete: bool

    @classmethod
    def levels(cls, values: int, levels: int) -> Inputs:
        """Of whole numbers 0 to `levels - 1`."""
        return cls(np.zeros(values), np.full(values, levels - 1.0), True)

    def __call__(self, values: Floats) -> npt.NDArray[np.float32]:
        """float64 [n, D] -> float32 [n, D]; NaN, a value to be filled, becomes the centre."""
        return np.nan_to_num((values - self.centre) / self.spread, nan=0.0).astype(np.float32)

    @property
    def log_jacobian(self) -> float:
        """Logarithm of |du/dx|, nats: to be added to a log-density of u."""
        return 0.0 if self.discrete else -float(np.log(self.spread).sum())
