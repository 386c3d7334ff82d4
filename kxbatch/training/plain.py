"""The backend of one process: plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.backend import Read
from kxbatch.training.precision import forward_context, training_precision
from kxbatch.training.whole import WholeState


class PlainBackend:
    """`Backend` of a model that this process holds whole.

    Args:
        model: fp32; moved to `device` in place.
        config: precision, batches, clipping and averaging.
        device: where it computes.
        optimizer: over the model's parameters, of the kind that `config` names.

    Raises:
        ConfigError: bf16 weights, which want DeepSpeed's fp32 copies of them.
    """

    rank = 0
    world = 1

    def __init__(
        self, model: nn.Module, config: TrainingConfig, device: torch.device, optimizer: torch.optim.Optimizer
    ) -> None:
        self.precision = training_precision(config.precision, device)
        if self.precision == "bf16":
            raise ConfigError(
                "precision = 'bf16' needs DeepSpeed, which keeps the fp32 weights that small updates are added to; "
                "with executor = 'inline' use 'autocast' (bf16 arithmetic on fp32 weights) or 'fp32'"
            )
        self.device = device
        self.model: nn.Module = model.to(device)
        self._config = config
        self._optimizer = optimizer
        self._state = WholeState(self.model, config, optimizer)

    def forward_context(self) -> AbstractContextManager[None]:
        """Autocast, where the precision asks for it."""
        return forward_context(self.precision, self.device)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one micro-batch are added to those of the step; `last` is of no meaning here."""
        (loss / self._config.micro_batches).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> Tensor:
        """Clip, update the weights and their average; returns the gradient's norm before clipping, 0-dim.

        Where the norm is not finite, weights, optimiser and average stay as they are.
        """
        trained = [p for p in self.model.parameters() if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if self._config.clip is not None:
            clip_grads_with_norm_(trained, self._config.clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        if norm.isfinite():
            self._optimizer.step()
            self._state.stepped()
        self._optimizer.zero_grad(set_to_none=True)
        return norm

    def mean(self, value: Tensor) -> Tensor:
        """The value: there is one process."""
        return value

    def barrier(self) -> None:
        """Nobody to wait for."""

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """The whole state, one tensor at a time on the CPU."""
        return self._state.share()

    def load(self, state: Read) -> None:
        """Take over a state that `share` gave in any number of processes.

        Raises:
            ConfigError: names or shapes are not those of this model; names them.
        """
        self._state.load(state)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the averaged weights, where there are any; no step and no `share` belongs there."""
        return self._state.averaged()

    def weights(self) -> dict[str, Tensor] | None:
        """All weights and buffers, fp32 on the CPU; a tied parameter under its first name only."""
        return self._state.weights()
