"""A trained variational autoencoder as a network with its weights."""

from __future__ import annotations

from pathlib import Path

from kxbatch.models.scaled_weights import WEIGHTS, filled
from kxbatch.models.trained_vae import TrainedVae
from kxbatch.models.vae import Vae
from kxbatch.models.vae_inputs import Inputs


def load_vae(trained: TrainedVae, folder: Path) -> tuple[Vae, Inputs]:
    """The network, on the CPU, and the units it goes with; nothing is allocated before all shapes are known to fit.

    Args:
        trained: what `config.json` of the folder says.
        folder: of the model.

    Raises:
        ConfigError: the weights are damaged, or do not belong to `config.json`.
    """
    weights, inputs = trained.unpack(folder)
    return filled(lambda: Vae(trained.network), weights, folder / WEIGHTS), inputs
