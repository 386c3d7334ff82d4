"""log p(x) of rows: each is encoded once, then its K samples go through the decoder in chunks of bounded size.

The noise of a sample belongs to the row and the number of the sample, so a row's density does not depend on the rows beside it.

Letters: N rows, S samples of a chunk, K samples of a row, L latent dimensions, D values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.data.row_draws import Keys, seeds, standard_normal
from kxbatch.models.importance import Estimates, Weights
from kxbatch.models.vae import Posterior, Vae

_STREAM = 4  # of the noise; masks have 1 to 3
_NUMBERS_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}  # that the decoder gives: half of them fit a CPU's second-level cache
_ROWS_ENCODED = 4096

Visit = Callable[[slice, Tensor], None]


@dataclass(frozen=True)
class Scorer:
    """Importance sampling with a trained model.

    Attributes:
        model: in evaluation mode, on its device.
        samples: K of each row.
        seed: of the noise.
    """

    model: Vae
    samples: int
    seed: int

    def estimate(self, u_ND: Tensor, keys: Keys) -> tuple[Estimates, Posterior]:
        """Densities with respect to u, and the proposals.

        Args:
            u_ND: float32, values in the units of the model.
            keys: uint64 [N], of the rows.
        """
        device = self._device
        weights = [Weights(rows.stop - rows.start, device) for rows in self._groups(len(u_ND))]
        posterior = self.posterior(u_ND)
        for number, chunk in self._chunks(u_ND, posterior, keys):
            weights[number].add(chunk)
        each = [one.estimates() for one in weights]
        fields = zip(*((e.log_density, e.elbo, e.stderr, e.ess, e.largest) for e in each), strict=True)
        return Estimates(*(torch.cat(field) for field in fields)), posterior

    def log_weights(self, u_ND: Tensor, keys: Keys) -> Tensor:
        """All log-weights, float32 [N, K]: for a few rows, to see how the estimate comes about."""
        groups: dict[int, list[Tensor]] = {}
        for number, chunk in self._chunks(u_ND, self.posterior(u_ND), keys):
            groups.setdefault(number, []).append(chunk)
        return torch.cat([torch.cat(chunks, dim=1) for chunks in groups.values()])

    @torch.inference_mode()
    def posterior(self, u_ND: Tensor) -> Posterior:
        """The proposals, each row encoded once."""
        parts = [self.model.encode(part.to(self._device)) for part in torch.split(u_ND, _ROWS_ENCODED)]
        return Posterior(*(torch.cat(field) for field in zip(*parts, strict=True)))

    @torch.inference_mode()
    def _chunks(self, u_ND: Tensor, posterior: Posterior, keys: Keys) -> Iterator[tuple[int, Tensor]]:
        """Log-weights [rows of a group, S], with the number of the group."""
        starts = seeds(keys, self.seed, _STREAM)
        for number, rows in enumerate(self._groups(len(u_ND))):
            values = u_ND[rows].to(self._device)
            q = Posterior(posterior.mean[rows], posterior.log_scale[rows])
            for first in range(0, self.samples, self._at_once):
                count = min(self._at_once, self.samples - first)
                noise: npt.NDArray[np.float32] = standard_normal(starts[rows], first, count, self.model.config.latent)
                terms = self.model.terms(values, q, torch.from_numpy(noise).to(self._device))
                yield number, terms.log_weights()

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def _at_once(self) -> int:
        """Samples that go through the decoder together."""
        numbers = self.model.config.values * self.model.likelihood.numbers
        return max(16, _NUMBERS_AT_ONCE[self._device.type] // max(numbers, *self.model.config.hidden))

    def _groups(self, rows: int) -> list[slice]:
        """Rows whose samples go through the decoder together: one where K fills a chunk."""
        step = max(1, self._at_once // self.samples)
        return [slice(at, min(at + step, rows)) for at in range(0, rows, step)]
