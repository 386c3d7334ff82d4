"""Importance sampling with a trained variational autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import Keys
from kxbatch.models.importance import by_samples, ladder
from kxbatch.models.trained_vae import TrainedVae, vae_digest
from kxbatch.models.vae_loading import load_vae
from kxbatch.models.vae_scoring import Scorer
from kxbatch.stages.density_gate import few_threshold
from kxbatch.stages.density_scores import packed
from kxbatch.stages.estimators.base import Estimator, Floats, Rows, Scored, check_columns
from kxbatch.stages.numeric import Domain, read_numeric

ACTIVE = 0.01  # variance of the posterior means above which a latent dimension says something (Burda et al. 2016)
LADDER_ROWS = 256  # for which the estimate is taken at fewer samples, too: those with the smallest keys
_WEIGHTS_AT_ONCE = 2**21


class ImportanceEstimator(Estimator):
    """log p(x) by K samples of the encoder's proposal.

    Args:
        folder: of the model.
        columns: that are read; must be those it was trained on.
        samples: K.
        seed: of the noise.
        threads: of a CPU.
        gpus: whether to compute on a GPU.
    """

    def __init__(
        self, folder: Path, columns: tuple[str, ...], *, samples: int, seed: int, threads: int, gpus: float
    ) -> None:
        self.trained = TrainedVae.read(folder)
        check_columns(str(folder), self.trained.columns, columns)
        model, self._inputs = load_vae(self.trained, folder)
        self.model_digest = vae_digest(folder)
        self._columns = columns
        device = "cuda" if gpus and torch.cuda.is_available() else "cpu"
        self._scorer = Scorer(model.eval().to(device), samples, seed, threads)
        network = self.trained.network
        self.dim, self.levels = network.values, network.levels if network.discrete else None

    def read(self, table: pa.Table) -> Rows:
        """Rows of the size and range that the model knows."""
        trained = self.trained
        domain = Domain(self.levels, trained.nulls, trained.widths, trained.network.shape)
        found = read_numeric(table, self._columns, domain)
        return Rows(found.values, found.usable, found.rejected)

    def sample(self, values: npt.NDArray[Any], keys: Keys) -> Arrays:
        """Densities, proposals, and what compression and convergence are told from."""
        u, jacobian = self._inputs(values), self._inputs.log_jacobian(values)
        found, posterior = self._scorer.estimate(u, keys)
        kl = 0.5 * (posterior.mean.square() + (2 * posterior.log_scale).exp() - 1) - posterior.log_scale
        curve = np.full((len(u), len(ladder(self._scorer.samples))), np.nan)
        step = max(1, _WEIGHTS_AT_ONCE // self._scorer.samples)
        for at in range(0, min(LADDER_ROWS, len(u)), step):
            some = slice(at, min(at + step, LADDER_ROWS))
            curve[some] = by_samples(self._scorer.log_weights(u[some], keys[some])).numpy() + jacobian[some, None]
        arrays = {
            "log_density": found.log_density.numpy() + jacobian,
            "mean": posterior.mean.numpy(),
            "kl": kl.numpy(),
            "curve": curve,
        }
        return arrays | ({"levels": packed(values, self.levels)} if self.levels else {})

    def fit(self, learned: Arrays) -> Arrays:
        """The model is fitted already."""
        return {}

    def load(self, fitted: Arrays) -> None:
        """The model is loaded already."""

    def calibration(self, sample: Arrays) -> Floats:
        """As they were sampled."""
        return sample["log_density"]

    def score(self, values: npt.NDArray[Any], keys: Keys) -> Scored:
        """K samples a row."""
        found, _ = self._scorer.estimate(self._inputs(values), keys)
        jacobian = self._inputs.log_jacobian(values)
        columns = {
            "density_stderr": found.stderr.numpy(),
            "ess": found.ess.numpy().astype(np.float32),
            "elbo": found.elbo.numpy() + jacobian,
            "largest_weight": found.largest.numpy().astype(np.float32),
        }
        few = int((found.ess < few_threshold(self._scorer.samples)).sum())
        return Scored(found.log_density.numpy() + jacobian, columns, {"rows_with_few_samples": few})

    def facts(self, sample: Arrays) -> dict[str, Any]:
        """Convergence in K, latent dimensions, and code lengths."""
        network = self.trained.network
        facts = {"likelihood": network.likelihood, "samples": self._scorer.samples, "shape": network.shape}
        return facts | sample_facts(sample, ladder(self._scorer.samples))


def sample_facts(sample: Arrays, sizes: list[int]) -> dict[str, Any]:
    """What a sample of rows says of the estimate and of the model."""
    curve = sample["curve"][:LADDER_ROWS]  # rows are in the order of their keys; later ones have it by chance
    curve = curve[np.isfinite(curve).all(axis=1)]
    facts: dict[str, Any] = {"convergence": [], "latent": None}
    if len(curve):
        means, errors = curve.mean(axis=0), curve.std(axis=0) / np.sqrt(len(curve))
        told = zip(sizes, means.tolist(), errors.tolist(), strict=True)
        facts["convergence"] = [{"samples": k, "mean": mean, "stderr": error} for k, mean, error in told]
    if len(sample["mean"]) > 1:
        variance = sample["mean"].astype(np.float64).var(axis=0)
        kl = sample["kl"].astype(np.float64).mean(axis=0)
        facts["latent"] = {"kl": kl.tolist(), "variance": variance.tolist(), "active": int((variance > ACTIVE).sum())}
    return facts
