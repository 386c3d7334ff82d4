"""What an estimator of densities does, and what it says of a row.

m usable rows of a table, D values of a row.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.data.quarantine import Rejected
from kxbatch.data.row_draws import Keys
from kxbatch.errors import ConfigError

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """Rows of a table that have a density.

    Attributes:
        values: [m, ...], whatever the estimator reads.
        usable: bool [n], which rows of the table they are.
        rejected: the others.
    """

    values: npt.NDArray[Any]
    usable: npt.NDArray[np.bool_]
    rejected: list[Rejected]


@dataclass(frozen=True)
class Scored:
    """What is known of m rows.

    Attributes:
        log_density: float64 [m], nats; NaN where there is none.
        columns: further columns by name, [m].
        counters: what is to be counted.
    """

    log_density: Floats
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)


class Estimator(ABC):
    """Densities of rows, and what of them is kept for calibration and report.

    Attributes:
        dim: D; bits are told for each of them.
        levels: whole levels that values have; None for real numbers.
        model_digest: of a trained model; None without one.
    """

    dim: int
    levels: int | None = None
    model_digest: str | None = None

    @property
    def discrete(self) -> bool:
        """Whether a row has a probability, not a density."""
        return self.levels is not None

    @abstractmethod
    def read(self, table: pa.Table) -> Rows:
        """Rows that can be scored."""

    def learn(self, values: npt.NDArray[Any]) -> Arrays:
        """What the estimator learns from the rows themselves."""
        return {}

    @abstractmethod
    def sample(self, values: npt.NDArray[Any], keys: Keys) -> Arrays:
        """What is kept of calibration rows, [m, ...] each; the stage adds their keys."""

    @abstractmethod
    def fit(self, learned: Arrays) -> Arrays:
        """What `load` needs; float arrays by name."""

    @abstractmethod
    def load(self, fitted: Arrays) -> None:
        """Get ready to score."""

    @abstractmethod
    def calibration(self, sample: Arrays) -> Floats:
        """Log-density of the sample's rows [m]; after `load`."""

    @abstractmethod
    def score(self, values: npt.NDArray[Any], keys: Keys) -> Scored:
        """Densities of rows; after `load`."""

    @abstractmethod
    def facts(self, sample: Arrays) -> dict[str, Any]:
        """What `density.json` says of it."""


def check_columns(model: str, trained: tuple[str, ...], columns: tuple[str, ...]) -> None:
    """A model is of its columns.

    Raises:
        ConfigError: it was trained on others.
    """
    if trained != columns:
        raise ConfigError(
            f"model = '{model}' was trained on {', '.join(trained)}, not on {', '.join(columns)}; "
            f"set columns = {list(trained)}, or train a model on these"
        )
