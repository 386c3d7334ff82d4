"""A trained variational autoencoder as a network with its weights."""

from __future__ import annotations

from pathlib import Path

import torch

from kxbatch.errors import ConfigError
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
    with torch.device("meta"):
        model = Vae(trained.network)
    try:
        model.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"'{folder}': config.json and model.safetensors do not belong together: {error}") from None
    return model.eval(), inputs
