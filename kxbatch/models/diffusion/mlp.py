"""A residual perceptron as denoiser.

Letters: B samples, D values of one, W width of the stream, E width of the condition.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.diffusion.conditioning import Condition, modulated, zeroed
from kxbatch.models.diffusion.config import MlpConfig


class MlpBlock(nn.Module):
    """`x + W_o silu(scale W_i norm(x) + shift)`, scale and shift from the condition; W_o is zero at first."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.inner = nn.Linear(config.width, config.width)
        self.told = nn.Linear(config.width, 2 * config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.out = zeroed(nn.Linear(config.width, config.width))

    def forward(self, x_BW: Tensor, told_BE: Tensor) -> Tensor:
        """[B, W] to [B, W]."""
        inner_BW = F.silu(modulated(self.inner(self.norm(x_BW)), self.told(told_BE)))
        y_BW: Tensor = x_BW + self.out(self.dropout(inner_BW))
        return y_BW


class ResidualMlp(nn.Module):
    """The denoiser; it says zero at first."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.condition = Condition(config.width, config.classes)
        self.enter = nn.Linear(config.values, config.width)
        self.blocks = nn.ModuleList([MlpBlock(config) for _ in range(config.layers)])
        self.norm = nn.LayerNorm(config.width)
        self.out = zeroed(nn.Linear(config.width, config.values))

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        """As `networks.Network`."""
        told_BE = self.condition(t_B, class_B)
        stream_BW = self.enter(x_BD)
        for block in self.blocks:
            stream_BW = block(stream_BW, told_BE)
        said_BD: Tensor = self.out(self.norm(stream_BW))
        return said_BD
