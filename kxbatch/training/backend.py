"""What the loop asks of whatever holds the model: plain torch in this process, or DeepSpeed in several.

State goes in and out as whole fp32 tensors by name, whoever holds which part of them. So a checkpoint does not know how many
processes wrote it, and any number may read it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import torch
from torch import Tensor, nn

Read = Mapping[str, Tensor]  # tensors by name; may read each from storage when it is asked for


class Backend(Protocol):
    """A model, its optimiser, and the processes that share them.

    Attributes:
        rank: number of this process.
        world: number of processes.
        device: where the model computes.
        model: what to call for a loss; under `forward_context`.
    """

    rank: int
    world: int
    device: torch.device
    model: nn.Module

    def forward_context(self) -> AbstractContextManager[None]:
        """Autocast, where the precision asks for it."""

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one micro-batch are added to those of the step.

        Args:
            loss: scalar; the gradient of a step is the mean over its micro-batches, those of all processes together.
            last: whether it is the last micro-batch of this process in the step.
        """

    def step(self, rate: float) -> Tensor:
        """Clip, update the weights and their average; returns the gradient's norm before clipping, 0-dim."""

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a 0-dim or flat tensor over the processes, the same in all of them."""

    def barrier(self) -> None:
        """All processes get here before one goes on."""

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """This process's share of the state, whole tensors on the CPU, one at a time.

        Names are `weights/NAME`, `average/NAME` (EMA), `optimizer/KEY/NAME` and `buffers/NAME`. Every tensor is in
        exactly one process's share. All processes must go through it to the end, for they give each other what they hold.
        """

    def load(self, state: Read) -> None:
        """Take over a state that `share` gave in any number of processes.

        Raises:
            ConfigError: names or shapes are not those of this model; names them.
        """

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the averaged weights, where there are any; for validation and export."""

    def weights(self) -> dict[str, Tensor] | None:
        """All weights and buffers, fp32 on the CPU, in process 0; None in the others. All processes must call it."""
