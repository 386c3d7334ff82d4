"""Samples of a variational autoencoder: z is drawn from the prior, and a sample is the mean of what the decoder makes of it.

Letters: B samples, L latent dimensions, P numbers a value, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kxbatch.kernels.diffusion import START, RowNoise
from kxbatch.models.generation import Floats, Ids, form_of
from kxbatch.models.trained_vae import TrainedVae
from kxbatch.models.vae_loading import load_vae


class VaeGenerator:
    """See `kxbatch.models.generation.Generator`.

    Args:
        folder: of the model.
        seed: of the noise, 0 to 2^64 - 1.
        device: where it computes.

    Raises:
        ConfigError: the folder holds no such model.
    """

    def __init__(self, folder: Path, *, seed: int, device: str) -> None:
        trained = TrainedVae.read(folder)
        model, self._inputs = load_vae(trained, folder)
        self._model, self._seed, self.device = model.to(device), seed, torch.device(device).type
        network = trained.network
        self.form = form_of(network.values, network.shape, network.levels if network.discrete else None)

    @torch.inference_mode()
    def generate(self, sample_ids: Sequence[int]) -> Floats:
        """Means of the likelihood, in the units of the data, [B, D]."""
        noise = RowNoise(self._seed, sample_ids)
        z_BL = noise.draw(START, (self._model.config.latent,), device=self.device)
        numbers_BPD = self._model.decoder(z_BL).float()
        u_BD = self._model.likelihood.mean(numbers_BPD)
        with np.errstate(over="ignore"):  # such a row is not finite, which is seen later
            return self._inputs.inverse(u_BD.cpu().numpy()).astype(np.float32)

    def told(self, sample_ids: Ids) -> dict[str, npt.NDArray[Any]]:
        """Nothing but the seed decides."""
        return {}
