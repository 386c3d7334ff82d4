"""An exponential moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Average:
    """Shadows of trainable parameters in fp32: `shadow <- decay * shadow + (1 - decay) * weight` after every step.

    They begin as the weights are, so no correction for the beginning is needed.

    Args:
        weights: parameters by name, fp32.
        decay: share of the shadow that a step keeps.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.weights = dict(weights)
        self.shadows = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """After a step of the optimiser."""
        torch._foreach_lerp_(list(self.shadows.values()), list(self.weights.values()), 1 - self.decay)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Within it the parameters have the shadows' values; nothing is copied."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, parameter in self.weights.items():
            shadow: Tensor = self.shadows[name]
            self.shadows[name], parameter.data = parameter.data, shadow
