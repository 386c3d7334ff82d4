"""A small model that has what makes trouble: a tied weight, odd sizes, a frozen parameter, a single number, two buffers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

WORDS, LENGTH = 21, 5


class Trainable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 7)
        self.linear = nn.Linear(7, 15)
        self.norm = nn.LayerNorm(15)
        self.back = nn.Linear(15, 7, bias=False)
        self.out = nn.Linear(7, WORDS)
        self.out.weight = self.embedding.weight
        self.gain = nn.Parameter(torch.ones(1))
        self.fixed = nn.Parameter(0.1 * torch.randn(7), requires_grad=False)
        self.register_buffer("offset", torch.full((7,), 0.5))
        self.register_buffer("passing", torch.ones(7), persistent=False)

    def forward(self, rows_BL: Tensor) -> Tensor:
        hidden = self.norm(torch.tanh(self.linear(self.embedding(rows_BL) + self.fixed)))
        scores = self.out(self.gain * self.back(hidden) * self.offset)
        return nn.functional.cross_entropy(scores.flatten(0, 1), rows_BL.roll(1, 1).flatten())


def batch(step: int, rows: int) -> Tensor:
    """Rows of a step, the same in every process."""
    return torch.randint(0, WORDS, (rows, LENGTH), generator=torch.Generator().manual_seed(step))
