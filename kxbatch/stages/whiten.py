"""`whiten`: makes vectors isotropic with one linear map, fitted on the corpus in one pass.

`y = (x - beta mu) U_k diag(lambda_k^(-gamma/2))` (Su et al. 2021; hyperparameters: Su 2022). The fold keeps moments only, so
another beta, gamma or dim is fitted without reading the vectors again.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from kxbatch.data.arrays import Arrays
from kxbatch.data.vectors import to_arrow
from kxbatch.errors import DataError
from kxbatch.kernels.drift import Drift, drift
from kxbatch.kernels.gaussian import Gaussian, fit_gaussian, log_density, mahalanobis
from kxbatch.kernels.moments import Moments, fold, mean_cosine, merge
from kxbatch.kernels.whitening import Transform, apply, fit, spectrum
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Artifact, Column, Context, FoldStage, Mapped, Phase
from kxbatch.stages.rows import usable_vectors

TRANSFORM = "transform.safetensors"
GAUSSIAN = "gaussian.safetensors"


class WhitenConfig(StageConfig):
    """Whitens a vector column."""

    kind: Literal["whiten"] = "whiten"
    column: str | None = Field(None, description="vector column; absent: the only one of the input")
    beta: float = Field(1.0, ge=0, le=1, description="how much of the mean is removed")
    gamma: float = Field(1.0, ge=0, le=1, description="how far the variances are made equal")
    dim: int | None = Field(None, ge=1, description="width of the output; absent: the numerical rank")
    dtype: Literal["float32", "float16"] = Field("float32", description="type of the output's elements")
    log_density: bool = Field(False, description="add the Gaussian log-density of every row, in nats")
    mahalanobis: bool = Field(False, description="add the Mahalanobis distance of every row from the mean")
    refit: Literal["never", "on-drift", "always"] = Field(
        "never", description="when rows that came later lead to a new fit"
    )
    max_drift: float = Field(0.01, gt=0, description="drift score above which 'on-drift' fits again")


class Whiten(FoldStage[WhitenConfig]):
    """Fold: moments. Map: the transform fitted from them."""

    config_type = WhitenConfig
    _transform: Transform
    _gaussian: Gaussian

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Fit, then apply."""
        return ("fold", "map")

    @classmethod
    def reads(cls, config: WhitenConfig) -> Column:
        """A vector column."""
        return Column(config.column, "vector")

    @classmethod
    def adds(cls, config: WhitenConfig) -> tuple[Column, ...]:
        """`whitened`, and on request `log_density` and `mahalanobis`."""
        extra = [name for name in ("log_density", "mahalanobis") if getattr(config, name)]
        return (Column("whitened", "vector"), *(Column(name, "other") for name in extra))

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """Moments depend on no hyperparameter; when to refit decides no row."""
        if phase == "fold":
            return {}
        values = self.config.semantic()
        return {key: value for key, value in values.items() if key not in ("refit", "max_drift")}

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """Moments of the usable rows."""
        vectors, _, _ = usable_vectors(table, self.column)
        return fold(vectors).to_arrays()

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Moments of both."""
        if int(a["n"]) == 0 or int(b["n"]) == 0:
            return b if int(a["n"]) == 0 else a
        try:
            return merge(Moments.from_arrays(a), Moments.from_arrays(b)).to_arrays()
        except ValueError as error:
            raise DataError(f"column '{self.column}': shards do not go together: {error}") from None

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """Share of the stored variance that would have to move."""
        return drift(Moments.from_arrays(pinned), Moments.from_arrays(current)).score

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """The transform, its spectrum, and the drift since it was pinned."""
        config, moments, now = self.config, Moments.from_arrays(pinned), Moments.from_arrays(current)
        try:
            transform = fit(moments, config.beta, config.gamma, config.dim)
        except ValueError as error:
            raise DataError(f"whitening of '{self.column}' cannot be fitted on {moments.n} rows: {error}") from None
        moved = drift(moments, now) if now.n != moments.n else None
        facts = spectrum(transform) | {"mean_cosine": mean_cosine(moments), "drift": _drift_facts(moved)}
        arrays = {TRANSFORM: transform.to_arrays()}
        if config.log_density or config.mahalanobis:
            gaussian = fit_gaussian(moments)
            arrays[GAUSSIAN] = {
                "mean": gaussian.mean,
                "whitener": gaussian.whitener,
                "log_peak": np.array(gaussian.log_peak),
            }
        return Artifact(arrays, {"spectrum.json": facts})

    def open(self, context: Context) -> None:
        """Load the transform."""
        assert context.artifact is not None
        self._transform = Transform.from_arrays(context.artifact(TRANSFORM))
        if self.config.log_density or self.config.mahalanobis:
            found = context.artifact(GAUSSIAN)
            self._gaussian = Gaussian(found["mean"], found["whitener"], float(found["log_peak"]))

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Apply the transform to the usable rows."""
        vectors, _, rejected = usable_vectors(table, self.column)
        width = len(self._transform.mean)
        if len(vectors) and vectors.shape[1] != width:
            raise DataError(
                f"column '{self.column}': vectors of length {vectors.shape[1]}, but the transform was fitted on {width}"
            )
        vectors = vectors.reshape(len(vectors), width)
        columns = {"whitened": to_arrow(apply(self._transform, vectors, self.config.dtype))}
        if self.config.log_density:
            columns["log_density"] = pa.array(log_density(self._gaussian, vectors))
        if self.config.mahalanobis:
            columns["mahalanobis"] = pa.array(mahalanobis(self._gaussian, vectors))
        return Mapped(columns, rejected)


def _drift_facts(moved: Drift | None) -> dict[str, float] | None:
    if moved is None:
        return None
    return {
        "score": moved.score,
        "mean_shift": moved.mean_shift,
        "covariance_shift": moved.covariance_distance,
        "frechet": moved.frechet,
        "rows_pinned": moved.n_stored,
        "rows_now": moved.n_new,
    }


STAGE = Whiten
