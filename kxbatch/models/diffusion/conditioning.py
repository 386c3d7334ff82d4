"""What a denoiser is told beside x_t: the time, and perhaps a class, as one vector.

Letters: B samples, E width of the condition, R half of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_LONGEST = 10_000.0  # wavelength, over 2 pi


def time_embedding(t_B: Tensor, width: int) -> Tensor:
    """Sines and cosines of the time, wavelengths 2 pi to 2 pi 10000 (Vaswani et al. 2017, section 3.5).

    Args:
        t_B: [B], times.
        width: even.

    Returns:
        float32 [B, width].
    """
    steps_R = torch.arange(width // 2, device=t_B.device, dtype=torch.float32)
    angle_BR = t_B.float().unsqueeze(1) * torch.exp(-math.log(_LONGEST) * steps_R / (width // 2))
    return torch.cat([angle_BR.cos(), angle_BR.sin()], dim=1)


class Condition(nn.Module):
    """Time and class, [B, E].

    Args:
        width: E, even.
        classes: how many there are; the number after the last means no class (Ho and Salimans 2022). 0: a model without.
    """

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self._width, self.none = width, classes
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.classes = nn.Embedding(classes + 1, width) if classes else None

    def forward(self, t_B: Tensor, class_B: Tensor | None) -> Tensor:
        """The vectors.

        Args:
            t_B: int64 [B], 1 to T.
            class_B: int64 [B], 0 to `classes`; None: no class. Of no meaning to a model without.
        """
        told_BE: Tensor = self.time(time_embedding(t_B, self._width))
        if self.classes is not None:
            told_BE = told_BE + self.classes(torch.full_like(t_B, self.none) if class_B is None else class_B)
        return nn.functional.silu(told_BE)


def modulated(x: Tensor, both: Tensor) -> Tensor:
    """`x (1 + scale) + shift`, what a condition does to a normalised stream (Perez et al. 2018).

    Args:
        x: [B, ..., C].
        both: [B, 2 C], scale and shift.
    """
    scale, shift = both.reshape(len(both), *[1] * (x.ndim - 2), -1).chunk(2, dim=-1)
    return x * (1 + scale) + shift


def zeroed(layer: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    """The layer, saying nothing at first: a block that ends with it begins as what goes past it."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
