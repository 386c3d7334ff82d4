"""Mean, spread and range of each value, from shards in any number: what standardising needs.

By the formula of Chan, Golub and LeVeque (1979) in float64. n rows, D values of a row; NaN counts as absent.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Spread:
    """Of n rows.

    Attributes:
        count: float64 [D], rows that have the value.
        mean: float64 [D], 0 where no row has it.
        scatter: float64 [D], sum of squared deviations from the mean.
        low: float64 [D], the smallest; infinity where no row has it.
        high: float64 [D], the largest.
    """

    count: Floats
    mean: Floats
    scatter: Floats
    low: Floats
    high: Floats

    @property
    def deviation(self) -> Floats:
        """Standard deviation [D], divided by n."""
        return np.sqrt(self.scatter / np.maximum(self.count, 1))

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Which values are the same in all rows [D]; there is no density along those."""
        return self.low >= self.high

    def to_arrays(self) -> dict[str, Floats]:
        """Named arrays."""
        return dict(vars(self))


def spread_of(values: Floats) -> Spread:
    """Of the rows of an array [n, D]."""
    known = ~np.isnan(values)
    filled = np.where(known, values, 0.0)
    count = known.sum(axis=0).astype(np.float64)
    mean = filled.sum(axis=0) / np.maximum(count, 1)
    scatter = (np.where(known, values - mean, 0.0) ** 2).sum(axis=0)
    low = np.where(known, values, np.inf).min(axis=0, initial=np.inf)
    high = np.where(known, values, -np.inf).max(axis=0, initial=-np.inf)
    return Spread(count, mean, scatter, low, high)


def merge_spreads(a: Spread, b: Spread) -> Spread:
    """Of the rows of both."""
    count = a.count + b.count
    shift = b.mean - a.mean
    share = b.count / np.maximum(count, 1)
    return Spread(
        count,
        a.mean + shift * share,
        a.scatter + b.scatter + shift**2 * a.count * share,
        np.minimum(a.low, b.low),
        np.maximum(a.high, b.high),
    )
