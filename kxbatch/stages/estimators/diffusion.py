"""A lower bound on log p(x): minus the variational bound of a trained diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import Keys
from kxbatch.models.diffusion.likelihood import BoundScorer
from kxbatch.models.diffusion.trained import TrainedDiffusion, diffusion_digest
from kxbatch.stages.density_scores import packed
from kxbatch.stages.estimators.base import Estimator, Floats, Rows, Scored, check_columns
from kxbatch.stages.numeric import Domain, read_numeric

_TERMS = ("prior", "steps", "decoder")


class DiffusionEstimator(Estimator):
    """The bound by its terms.

    Args:
        folder: of the model.
        columns: that are read; must be those it was trained on.
        steps: of the model's times; None: all.
        draws: of the noise, for each row and time.
        seed: of the noise.
        threads: of a CPU.
        gpus: whether to compute on a GPU.
    """

    def __init__(
        self,
        folder: Path,
        columns: tuple[str, ...],
        *,
        steps: int | None,
        draws: int,
        seed: int,
        threads: int,
        gpus: float,
    ) -> None:
        self.trained = TrainedDiffusion.read(folder)
        check_columns(str(folder), self.trained.columns, columns)
        self.model_digest = diffusion_digest(folder)
        device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        model = TrainedDiffusion.load(folder, device=device)
        self._columns, self._draws, self._steps = columns, draws, steps
        self._scorer = BoundScorer(model, steps=steps, draws=draws, seed=seed, threads=threads)
        self.dim, self.levels = model.values, self.trained.levels

    def read(self, table: pa.Table) -> Rows:
        """Rows of the size and range that the model knows."""
        trained = self.trained
        domain = Domain(self.levels, widths=trained.widths, shape=trained.shape)
        found = read_numeric(table, self._columns, domain)
        return Rows(found.values, found.usable, found.rejected)

    def sample(self, values: npt.NDArray[Any], keys: Keys) -> Arrays:
        """Bounds, and their terms."""
        found = self._scorer.estimate(values, keys)
        terms = {name: getattr(found, name).astype(np.float32) for name in _TERMS}
        levels = {"levels": packed(values, self.levels)} if self.levels else {}
        return {"log_density": found.log_density} | terms | levels

    def fit(self, learned: Arrays) -> Arrays:
        """The model is fitted already."""
        return {}

    def load(self, fitted: Arrays) -> None:
        """The model is loaded already."""

    def calibration(self, sample: Arrays) -> Floats:
        """As they were sampled."""
        return sample["log_density"]

    def score(self, values: npt.NDArray[Any], keys: Keys) -> Scored:
        """One bound a row, the mean of the draws."""
        found = self._scorer.estimate(values, keys)
        return Scored(found.log_density, {"density_stderr": found.stderr})

    def facts(self, sample: Arrays) -> dict[str, Any]:
        """Where the bits go."""
        scorer, schedule = self._scorer, self.trained.schedule.make().identity
        facts = {"samples": self._draws, "steps": self._steps, "shape": self.trained.shape, "schedule": schedule}
        if not len(sample["prior"]):
            return facts | {"bound": None}
        prior, steps, decoder = (sample[name].mean(axis=0, dtype=np.float64) for name in _TERMS)
        later = scorer.times[1:]  # the time that each step starts from
        told = [
            {"first": later[group][0], "last": later[group][-1], "steps": len(later[group]), "bits": float(bits)}
            for group, bits in zip(scorer.groups, steps, strict=True)
        ]
        return facts | {"bound": {"prior": float(prior), "steps": told, "decoder": float(decoder)}}
