"""log p(x) of rows: each is encoded once, then its K samples go through the decoder in chunks of bounded size.

The noise of a sample belongs to the row and the number of the sample, so a row's density does not depend on the rows beside it.

Letters: N rows, S samples of a chunk, K samples of a row, L latent dimensions, D values of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.data.row_draws import Keys, seeds, standard_normal
from kxbatch.models.device import run_batches
from kxbatch.models.importance import Estimates, Weights
from kxbatch.models.vae import Posterior, Vae

_STREAM = 4  # of the noise; masks have 1 to 3
_NUMBERS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}  # of a layer: more leave a CPU's caches
_ROWS_ENCODED = 1024


@dataclass(frozen=True)
class Scorer:
    """Importance sampling with a trained model.

    Attributes:
        model: in evaluation mode, on its device.
        samples: K of each row.
        seed: of the noise.
        threads: of a CPU; a row is worked on by one of them, so their number changes nothing.
    """

    model: Vae
    samples: int
    seed: int
    threads: int = 1

    def estimate(self, u: npt.NDArray[np.float32], keys: Keys) -> tuple[Estimates, Posterior]:
        """Densities with respect to u, and the proposals; tensors on the CPU.

        Args:
            u: [N, D], values in the units of the model.
            keys: uint64 [N], of the rows.
        """
        posterior = self.posterior(u)
        groups = self._groups(len(u))
        found: list[Estimates | None] = [None] * len(groups)

        def work(number: int) -> None:
            rows = groups[number]
            weights = Weights(rows.stop - rows.start, self._device)
            for chunk in self._chunks(u[rows], _part(posterior, rows, self._device), keys[rows]):
                weights.add(chunk)
            found[number] = weights.estimates()

        run_batches(work, len(groups), self.threads, self._device.type)
        return _joined([one for one in found if one is not None]), posterior

    def log_weights(self, u: npt.NDArray[np.float32], keys: Keys) -> Tensor:
        """All log-weights, float32 [N, K]: of a few rows, to see how an estimate comes about."""
        posterior = self.posterior(u)
        rows = [
            torch.cat(list(self._chunks(u[group], _part(posterior, group, self._device), keys[group])), dim=1)
            for group in self._groups(len(u))
        ]
        return torch.cat(rows).cpu() if rows else torch.empty(0, self.samples)

    @torch.inference_mode()
    def posterior(self, u: npt.NDArray[np.float32]) -> Posterior:
        """The proposals, each row encoded once."""
        latent = self.model.config.latent
        parts = [Posterior(torch.empty(0, latent), torch.empty(0, latent))]
        step = min(_ROWS_ENCODED, self._at_once)
        for at in range(0, len(u), step):
            values_ND = torch.from_numpy(u[at : at + step]).to(self._device)
            found = self.model.encode(values_ND)
            parts.append(Posterior(found.mean.cpu(), found.log_scale.cpu()))
        mean, log_scale = (torch.cat(field) for field in zip(*parts, strict=True))
        return Posterior(mean, log_scale)

    def _chunks(self, u: npt.NDArray[np.float32], q: Posterior, keys: Keys) -> Iterator[Tensor]:
        """Log-weights [N, S] of the rows of a group, until all K samples are through."""
        starts = seeds(keys, self.seed, _STREAM)
        values_ND = torch.from_numpy(u).to(self._device)
        for first in range(0, self.samples, self._at_once):
            count = min(self._at_once, self.samples - first)
            noise = standard_normal(starts, first, count, self.model.config.latent)
            with torch.inference_mode():
                yield self.model.terms(values_ND, q, torch.from_numpy(noise).to(self._device)).log_weights()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _at_once(self) -> int:
        """Samples that go through the decoder together."""
        config = self.model.config
        widest = max(config.values * self.model.likelihood.numbers, config.widest)
        return max(16, _NUMBERS_AT_ONCE[self._device.type] // widest)

    def _groups(self, rows: int) -> list[slice]:
        """Rows whose samples go through the decoder together: one where K fills a chunk."""
        step = max(1, self._at_once // self.samples)
        return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]


def _part(posterior: Posterior, rows: slice, device: torch.device) -> Posterior:
    return Posterior(posterior.mean[rows].to(device), posterior.log_scale[rows].to(device))


def _joined(each: list[Estimates]) -> Estimates:
    none = torch.empty(0, dtype=torch.float64)
    names = [field.name for field in fields(Estimates)]
    return Estimates(*(torch.cat([none, *(getattr(one, name).cpu() for one in each)]) for name in names))
