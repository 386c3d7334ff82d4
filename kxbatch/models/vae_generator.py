"""Samples of a variational autoencoder: z is drawn from the prior, and a sample is the mean of what the decoder makes of it.

Letters: B samples, L latent dimensions, P numbers a value, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from kxbatch.models.generation import Made, form_of, turn
from kxbatch.models.latents import Latents, draw_latents
from kxbatch.models.trained_vae import TrainedVae
from kxbatch.models.vae_loading import load_vae


class VaeGenerator:
    """See `kxbatch.models.generation.Generator`.

    Args:
        folder: of the model.
        latents: how z is chosen; batches take them in turn. None: it is not, and nothing is told of it.
        seed: of the noise, 0 to 2^64 - 1.
        device: where it computes.

    Raises:
        ConfigError: the folder holds no such model.
    """

    def __init__(self, folder: Path, latents: Sequence[Latents] | None = None, *, seed: int, device: str) -> None:
        trained = TrainedVae.read(folder)
        model, self._inputs = load_vae(trained, folder)
        self._latents = latents
        self._model, self._seed, self.device = model.to(device), seed, torch.device(device).type
        network = trained.network
        self.form = form_of(network.values, network.shape, network.levels if network.discrete else None)

    @torch.inference_mode()
    def generate(self, sample_ids: Sequence[int]) -> Made:
        """Means of the likelihood, in the units of the data."""
        how = turn(sample_ids, self._latents or (Latents(),))
        drawn = draw_latents(how, self._seed, sample_ids, self._model.config.latent, self.device)
        numbers_BPD = self._model.decoder(drawn.values).float()
        u_BD = self._model.likelihood.mean(numbers_BPD)
        with np.errstate(over="ignore"):  # such a row is not finite, which is seen later
            x_BD = self._inputs.inverse(u_BD.cpu().numpy()).astype(np.float32)
        return Made(x_BD, drawn.columns if self._latents else {})
