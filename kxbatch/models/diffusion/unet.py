"""The U-Net of Ho, Jain and Abbeel (2020), for images of any size.

What was seen on the way down is put beside what is there on the way up, block by block. Sizes are halved and rounded up; on the way
up an image takes the size that it had.

Letters: B samples, D values of one, C channels, H and W height and width, L their product, S width of a head, E width of the
condition. Values of a row lie as height by width by channels.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.diffusion.conditioning import Condition, zeroed
from kxbatch.models.diffusion.config import UNetConfig

_GROUPS = 32  # of GroupNorm, where the channels can be divided so


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu and He 2018): as BatchNorm, it lets no sample see another."""
    return nn.GroupNorm(math.gcd(_GROUPS, channels), channels)


class ResidualBlock(nn.Module):
    """Two convolutions, the condition in between; the second is zero at first, so that the block begins as its shortcut."""

    def __init__(self, channels: int, to: int, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.conv = group_norm(channels), nn.Conv2d(channels, to, 3, padding=1)
        self.told = nn.Linear(width, 2 * to)
        self.middle, self.dropout = group_norm(to), nn.Dropout(dropout)
        self.out = zeroed(nn.Conv2d(to, to, 3, padding=1))
        self.shortcut = nn.Identity() if channels == to else nn.Conv2d(channels, to, 1)

    def forward(self, x_BCHW: Tensor, told_BE: Tensor) -> Tensor:
        """[B, C, H, W] to [B, to, H, W]."""
        inner = self.conv(F.silu(self.norm(x_BCHW)))
        scale, shift = self.told(told_BE)[:, :, None, None].chunk(2, dim=1)
        inner = F.silu(self.middle(inner) * (1 + scale) + shift)
        y_BCHW: Tensor = self.shortcut(x_BCHW) + self.out(self.dropout(inner))
        return y_BCHW


class SelfAttention(nn.Module):
    """Every place sees every other; the last map is zero at first."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self._heads = heads
        self.norm = group_norm(channels)
        self.project = nn.Conv2d(channels, 3 * channels, 1)
        self.out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """[B, C, H, W] to the same."""
        qkv_BCL = self.project(self.norm(x_BCHW)).flatten(2)
        q, k, v = qkv_BCL.unflatten(1, (3, self._heads, -1)).transpose(-1, -2).unbind(1)  # each [B, heads, L, S]
        mixed = F.scaled_dot_product_attention(q, k, v)
        y_BCHW: Tensor = x_BCHW + self.out(mixed.transpose(-1, -2).reshape(x_BCHW.shape))
        return y_BCHW


class Step(nn.Module):
    """A residual block, and attention after it where the level has it."""

    def __init__(self, config: UNetConfig, channels: int, to: int, attention: bool) -> None:
        super().__init__()
        self.block = ResidualBlock(channels, to, 4 * config.channels, config.dropout)
        self.attention = SelfAttention(to, config.heads) if attention else nn.Identity()

    def forward(self, x_BCHW: Tensor, told_BE: Tensor) -> Tensor:
        """[B, C, H, W] to [B, to, H, W]."""
        y_BCHW: Tensor = self.attention(self.block(x_BCHW, told_BE))
        return y_BCHW


class UNet(nn.Module):
    """The denoiser; it says zero at first."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self._shape = config.shape
        widths = [config.channels * factor for factor in config.multipliers]
        attends = [level in config.attention for level in range(len(widths))]
        self.condition = Condition(4 * config.channels, config.classes)
        self.enter = nn.Conv2d(config.shape[2], config.channels, 3, padding=1)
        seen = [config.channels]  # channels of everything that is kept for the way up
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(widths):
            steps = nn.ModuleList()
            for _ in range(config.blocks):
                steps.append(Step(config, seen[-1], width, attends[level]))
                seen.append(width)
            self.down.append(steps)
            if level < len(widths) - 1:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
                seen.append(width)
        self.middle = nn.ModuleList([Step(config, widths[-1], widths[-1], at) for at in (True, False)])
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        here = widths[-1]
        for level, width in reversed(list(enumerate(widths))):
            steps = nn.ModuleList()
            for _ in range(config.blocks + 1):
                steps.append(Step(config, here + seen.pop(), width, attends[level]))
                here = width
            self.up.append(steps)
            if level > 0:
                self.grow.append(nn.Conv2d(width, width, 3, padding=1))
        self.norm = group_norm(here)
        self.out = zeroed(nn.Conv2d(here, config.shape[2], 3, padding=1))

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        """As `networks.Network`."""
        told_BE = self.condition(t_B, class_B)
        maps = self.enter(x_BD.view(-1, *self._shape).permute(0, 3, 1, 2).contiguous())
        maps, seen = self._go_down(maps, told_BE)
        for step in self.middle:
            maps = step(maps, told_BE)
        maps = self._go_up(maps, seen, told_BE)
        said_BCHW: Tensor = self.out(F.silu(self.norm(maps)))
        return said_BCHW.permute(0, 2, 3, 1).flatten(1)

    def _go_down(self, maps: Tensor, told_BE: Tensor) -> tuple[Tensor, list[Tensor]]:
        seen = [maps]
        for level, steps in enumerate(self.down):
            for step in steps:  # type: ignore[attr-defined]  # a list of modules
                maps = step(maps, told_BE)
                seen.append(maps)
            if level < len(self.shrink):
                maps = self.shrink[level](maps)
                seen.append(maps)
        return maps, seen

    def _go_up(self, maps: Tensor, seen: list[Tensor], told_BE: Tensor) -> Tensor:
        for level, steps in enumerate(self.up):
            for step in steps:  # type: ignore[attr-defined]  # a list of modules
                maps = step(torch.cat([maps, seen.pop()], dim=1), told_BE)
            if level < len(self.grow):
                maps = self.grow[level](F.interpolate(maps, seen[-1].shape[2:]))  # the size it had
        return maps
