"""Distances to nearest neighbours, as a hubness stage found them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import Keys
from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.neighbor_density import neighbor_log_density
from kxbatch.stages.estimators.base import Estimator, Floats, Rows, Scored

SCORES = "neighbor_scores"
GRAPH = "hubness.json"


class NeighborEstimator(Estimator):
    """Each row against all others; there is nothing to fit.

    Args:
        artifact: of the hubness stage.
    """

    def __init__(self, artifact: Path) -> None:
        try:
            graph = orjson.loads((artifact / GRAPH).read_bytes())
            self._metric, self.dim, self._searched = graph["metric"], int(graph["dim"]), int(graph["searched"])
            self._others = self._searched - (graph["queries"] is None)  # a query is not among those that are searched
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"'{artifact}' is no artifact of a hubness stage ({error!r}); run that stage again"
            ) from None

    def read(self, table: pa.Table) -> Rows:
        """All rows; one that no neighbours were sought for has no density."""
        lists = table.column(SCORES).combine_chunks()
        if isinstance(lists, pa.ChunkedArray):
            lists = pa.concat_arrays(lists.chunks)
        if not pa.types.is_fixed_size_list(lists.type):
            raise DataError(f"column '{SCORES}' has type {lists.type}; a hubness stage writes lists of one length")
        flat = lists.values.slice(lists.offset * lists.type.list_size, len(lists) * lists.type.list_size)
        scores = flat.to_numpy(zero_copy_only=False).astype(np.float64).reshape(len(lists), lists.type.list_size)
        return Rows(scores, np.ones(len(table), bool), [])

    def sample(self, values: npt.NDArray[Any], keys: Keys) -> Arrays:
        """Their densities."""
        return {"log_density": self.score(values, keys).log_density}

    def fit(self, learned: Arrays) -> Arrays:
        """Nothing."""
        return {}

    def load(self, fitted: Arrays) -> None:
        """Nothing."""

    def calibration(self, sample: Arrays) -> Floats:
        """As they were sampled."""
        return sample["log_density"]

    def score(self, values: npt.NDArray[Any], keys: Keys) -> Scored:
        """From the distance to the last neighbour of the list."""
        found = neighbor_log_density(values, self._metric, self._others + 1, self.dim)
        return Scored(found, counters={"rows_without_neighbors": int(np.isnan(found).sum())})

    def facts(self, sample: Arrays) -> dict[str, Any]:
        """What the lists are of."""
        return {"metric": self._metric, "searched": self._searched}
