"""The backend of one process: plain torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.average import Average
from kxbatch.training.backend import Read
from kxbatch.training.layout import Layout, lasting_buffers
from kxbatch.training.optimizers import state_shapes
from kxbatch.training.precision import forward_context, training_precision


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
        self._layout = Layout.of(model, config)
        self._weights = dict(model.named_parameters())
        trained = {name: self._weights[name] for name in self._layout.trainable}
        self._average = Average(trained, config.ema) if config.ema is not None else None

    def forward_context(self) -> AbstractContextManager[None]:
        """Autocast, where the precision asks for it."""
        return forward_context(self.precision, self.device)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one micro-batch are added to those of the step; `last` is of no meaning here."""
        (loss / self._config.micro_batches).backward()  # type: ignore[no-untyped-call]

    def step(self, rate: float) -> Tensor:
        """Clip, update the weights and their average; returns the gradient's norm before clipping, 0-dim."""
        trained = [p for p in self._weights.values() if p.grad is not None]
        norm = get_total_norm([p.grad for p in trained if p.grad is not None])
        if self._config.clip is not None:
            clip_grads_with_norm_(trained, self._config.clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self._average is not None:
            self._average.update()
        return norm

    def mean(self, value: Tensor) -> Tensor:
        """The value: there is one process."""
        return value

    def barrier(self) -> None:
        """Nobody to wait for."""

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """The whole state, one tensor at a time on the CPU; what the optimiser has not begun is zero, as it will begin."""
        for name, parameter in self._weights.items():
            yield f"weights/{name}", _whole(parameter)
        for name in self._layout.trainable:
            if self._average is not None:
                yield f"average/{name}", _whole(self._average.shadows[name])
            kept = self._optimizer.state.get(self._weights[name], {})
            for key, shape in state_shapes(self._layout.optimizer, self._layout.weights[name]).items():
                yield f"optimizer/{key}/{name}", _whole(kept[key]) if key in kept else torch.zeros(shape)
        for name, buffer in lasting_buffers(self.model).items():
            yield f"buffers/{name}", _whole(buffer)

    @torch.no_grad()
    def load(self, state: Read) -> None:
        """Take over a state that `share` gave in any number of processes.

        Raises:
            ConfigError: names or shapes are not those of this model; names them.
        """
        self._layout.check(state)
        for name, parameter in self._weights.items():
            parameter.copy_(self._layout.read(state, f"weights/{name}"))
        for name, buffer in lasting_buffers(self.model).items():
            buffer.copy_(self._layout.read(state, f"buffers/{name}"))
        for name in self._layout.trainable:
            if self._average is not None:
                self._average.shadows[name].copy_(self._layout.read(state, f"average/{name}"))
            self._optimizer.state[self._weights[name]] = self._read_optimizer(state, name)

    def _read_optimizer(self, state: Read, name: str) -> dict[str, Any]:
        """State of one parameter; torch's fused optimisers count steps where the parameter lies, the others on the CPU."""
        fused = bool(self._optimizer.defaults.get("fused"))
        found: dict[str, Any] = {}
        for key in state_shapes(self._layout.optimizer, self._layout.weights[name]):
            value = self._layout.read(state, f"optimizer/{key}/{name}")
            found[key] = value.to(self.device if key != "step" or fused else "cpu", copy=True)
        return found

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the averaged weights, where there are any; no step and no `share` belongs there."""
        return self._average.in_force() if self._average is not None else nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """All weights and buffers, fp32 on the CPU; a tied parameter under its first name only."""
        parts = {**self._weights, **lasting_buffers(self.model)}
        return {name: _whole(value) for name, value in parts.items()}


def _whole(value: Tensor) -> Tensor:
    """A copy on the CPU, in fp32 if it is floating point: what is shared must not change with the next step."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", dtype, copy=True)
