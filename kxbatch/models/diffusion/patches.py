"""Gated Attention Units over the patches of an image.

    x + (GAU(norm(x) (1 + scale) + shift)), scale and shift from the condition

W_o of each unit is zero at first (`kxbatch.models.gau` has the unit itself). Positions are rotary, in two dimensions.

Letters: B samples, D values of one, L patches, W width of the stream, E width of the condition.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from kxbatch.models.attention import Frame, fused
from kxbatch.models.diffusion.conditioning import Condition, modulated, zeroed
from kxbatch.models.diffusion.config import PatchConfig
from kxbatch.models.gau import GatedAttentionUnit
from kxbatch.models.norms import normalize
from kxbatch.models.rope import grid_table
from kxbatch.models.text_encoder_config import TextEncoderConfig

_BASE = (
    100.0  # of the rotary positions: images have few rows of patches, so wavelengths end earlier than those of texts
)


def to_patches(images_BHWC: Tensor, patch: int) -> Tensor:
    """[B, H, W, C] to [B, L, values of a patch], patches row by row."""
    batch, height, width, channels = images_BHWC.shape
    cut = images_BHWC.view(batch, height // patch, patch, width // patch, patch, channels)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)


def from_patches(patches_BLV: Tensor, patch: int, grid: tuple[int, int]) -> Tensor:
    """What `to_patches` cut, as rows [B, D]."""
    batch, (rows, columns) = len(patches_BLV), grid
    cut = patches_BLV.view(batch, rows, columns, patch, patch, -1)
    return cut.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1)


class PatchLayer(nn.Module):
    """One Gated Attention Unit."""

    def __init__(self, config: PatchConfig, unit: TextEncoderConfig) -> None:
        super().__init__()
        self.gau = GatedAttentionUnit(unit)
        zeroed(self.gau.out)
        self.told = nn.Linear(config.dim, 2 * config.dim)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x_BLW: Tensor, told_BE: Tensor, frame: Frame) -> Tensor:
        """[B, L, W] to [B, L, W]."""
        inner_BLW = modulated(normalize("rmsnorm", x_BLW), self.told(told_BE))
        branch_BLW = self.gau.around(inner_BLW, frame, lambda q, k, v: fused(q, k, v, None))
        y_BLW: Tensor = x_BLW + self.dropout(branch_BLW)
        return y_BLW


class PatchGau(nn.Module):
    """The denoiser; it says zero at first."""

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.config = config
        values = config.patch**2 * config.shape[2]
        unit = TextEncoderConfig(
            vocabulary=1, dim=config.dim, layers=config.layers, key_dim=config.key_dim, normalizer="softmax", norm="pre"
        )
        self.condition = Condition(config.dim, config.classes)
        self.enter = nn.Linear(values, config.dim)
        self.layers = nn.ModuleList([PatchLayer(config, unit) for _ in range(config.layers)])
        self.told = nn.Linear(config.dim, 2 * config.dim)
        self.out = zeroed(nn.Linear(config.dim, values))

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        """As `networks.Network`."""
        config = self.config
        told_BE = self.condition(t_B, class_B)
        stream_BLW = self.enter(to_patches(x_BD.view(-1, *config.shape), config.patch))
        frame = self._frame(stream_BLW)
        for layer in self.layers:
            stream_BLW = layer(stream_BLW, told_BE, frame)
        said_BLV = self.out(modulated(normalize("rmsnorm", stream_BLW), self.told(told_BE)))
        return from_patches(said_BLV, config.patch, config.grid)

    def _frame(self, like: Tensor) -> Frame:
        rope = grid_table(*self.config.grid, self.config.key_dim, _BASE, like)
        scale = torch.full((1, 1, 1), self.config.key_dim**-0.5, device=like.device, dtype=like.dtype)
        return Frame(rope, scale, None, "softmax")
