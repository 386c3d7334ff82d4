"""A denoiser by its configuration.

Letters: B samples, D values of one.
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from kxbatch.models.diffusion.config import MlpConfig, NetworkConfig, PatchConfig
from kxbatch.models.diffusion.mlp import ResidualMlp
from kxbatch.models.diffusion.patches import PatchGau
from kxbatch.models.diffusion.unet import UNet


class Network(Protocol):
    """What all denoisers can do. An image's values lie in a row as height by width by channels."""

    def __call__(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        """The prediction.

        Args:
            x_BD: x_t, float32 [B, D].
            t_B: int64 [B], 1 to T.
            class_B: int64 [B], 0 to `classes`, of which the last means no class; None: no class for any.

        Returns:
            [B, D].
        """
        ...


def make_network(config: NetworkConfig) -> nn.Module:
    """A `Network` with new weights, drawn from torch's generator, which says zero whatever it is asked."""
    if isinstance(config, MlpConfig):
        return ResidualMlp(config)
    return PatchGau(config) if isinstance(config, PatchConfig) else UNet(config)
