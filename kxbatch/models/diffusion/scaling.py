"""From values as users have them to the units of the model, in which noise has deviation 1, and back.

n rows, D values of a row. All in float64: a large mean costs no digits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kxbatch.kernels.spread import Spread

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Scaling:
    """`u = (x - centre) / spread`, the same for all rows.

    Attributes:
        centre: float64 [D].
        spread: float64 [D], positive.
        levels: values are whole numbers 0 to `levels - 1`; None: any.
    """

    centre: Floats
    spread: Floats
    levels: int | None = None

    @classmethod
    def of_levels(cls, values: int, levels: int) -> Scaling:
        """Whole numbers 0 to `levels - 1` to [-1, 1]; 8-bit values to `level / 127.5 - 1`."""
        middle = np.full(values, (levels - 1) / 2)
        return cls(middle, middle, levels)

    @classmethod
    def standardising(cls, spread: Spread) -> Scaling:
        """To mean 0 and deviation 1; a value that is the same in all rows becomes 0, and comes back as it was."""
        return cls(spread.mean, np.where(spread.constant, 1.0, spread.deviation))

    @classmethod
    def none(cls, values: int) -> Scaling:
        """Values as they are."""
        return cls(np.zeros(values), np.ones(values))

    def __call__(self, values: Floats) -> npt.NDArray[np.float32]:
        """float64 [n, D] -> float32 [n, D]."""
        return ((values - self.centre) / self.spread).astype(np.float32)

    def back(self, units: npt.NDArray[np.floating]) -> Floats:
        """[n, D] in the units of the model -> float64 [n, D]; the nearest level where there are levels."""
        values: Floats = units.astype(np.float64) * self.spread + self.centre
        return values if self.levels is None else np.clip(np.rint(values), 0, self.levels - 1)
