"""The normal distribution with the moments of the rows: exact, quick, and the baseline of every other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import Keys
from kxbatch.errors import DataError
from kxbatch.kernels.gaussian import Gaussian, fit_gaussian, log_density
from kxbatch.kernels.moments import Moments, fold, merge
from kxbatch.stages.estimators.base import Estimator, Floats, Rows, Scored
from kxbatch.stages.numeric import Domain, read_numeric


class GaussianEstimator(Estimator):
    """On the subspace in which the rows vary."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._gaussian: Gaussian
        self._widths: tuple[int, ...] | None = None  # of those it was fitted on
        self._seen: tuple[int, ...] = ()

    def read(self, table: pa.Table) -> Rows:
        """Finite numbers, of the widths it was fitted on; before that, of those that most rows of the table have."""
        found = read_numeric(table, self._columns, Domain(None, widths=self._widths))
        self._seen = found.widths
        return Rows(found.values, found.usable, found.rejected)

    def learn(self, values: npt.NDArray[Any]) -> Arrays:
        """Moments, in float64: columns of different units lie far apart; and the widths of the columns."""
        return fold(values, exact=True).to_arrays() | {"widths": np.array(self._seen)}

    def unite(self, a: Arrays, b: Arrays) -> Arrays:
        """Moments of both, which have the same widths."""
        return merge(Moments.from_arrays(a), Moments.from_arrays(b)).to_arrays() | {"widths": a["widths"]}

    def sample(self, values: npt.NDArray[Any], keys: Keys) -> Arrays:
        """The rows themselves: their density is known once all moments are."""
        return {"values": values}

    def fit(self, learned: Arrays) -> Arrays:
        """Mean, whitener and peak."""
        try:
            found = fit_gaussian(Moments.from_arrays(learned))
        except ValueError as error:
            raise DataError(f"columns {', '.join(self._columns)}: no normal distribution: {error}") from None
        arrays = {"mean": found.mean, "whitener": found.whitener, "log_peak": np.array(found.log_peak)}
        return arrays | {"widths": learned["widths"]}

    def load(self, fitted: Arrays) -> None:
        """The distribution."""
        self._gaussian = Gaussian(fitted["mean"], fitted["whitener"], float(fitted["log_peak"]))
        self.dim = len(self._gaussian.mean)
        self._widths = tuple(int(width) for width in fitted["widths"])

    def calibration(self, sample: Arrays) -> Floats:
        """Exact."""
        return log_density(self._gaussian, sample["values"])

    def score(self, values: npt.NDArray[Any], keys: Keys) -> Scored:
        """Exact."""
        return Scored(log_density(self._gaussian, values.reshape(len(values), self.dim)))

    def facts(self, sample: Arrays) -> dict[str, Any]:
        """In how many directions the rows vary."""
        return {"rank": int(self._gaussian.whitener.shape[1])}
