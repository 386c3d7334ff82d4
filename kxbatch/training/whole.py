"""State of a training that a process holds whole: all weights, all that the optimiser knows of them, their average."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from kxbatch.spec.training import TrainingConfig
from kxbatch.training.average import Average
from kxbatch.training.backend import Read
from kxbatch.training.layout import Layout, lasting_buffers
from kxbatch.training.optimizers import state_shapes


class WholeState:
    """Reads and writes it by name.

    Args:
        model: on its device.
        config: which optimiser, and whether there is an average.
        optimizer: over the model's own parameters.
        rank: number of this process, of those that hold the same.
        world: how many hold the same.
    """

    def __init__(
        self, model: nn.Module, config: TrainingConfig, optimizer: torch.optim.Optimizer, rank: int = 0, world: int = 1
    ) -> None:
        self.layout = Layout.of(model, config)
        self._model = model
        self._weights = dict(model.named_parameters())
        self._optimizer = optimizer
        self._rank, self._world = rank, world
        trained = {name: self._weights[name] for name in self.layout.trainable}
        self._average = Average(trained, config.ema) if config.ema is not None else None

    def stepped(self) -> None:
        """After a step of the optimiser."""
        if self._average is not None:
            self._average.update()

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """As `Backend.share`; what the optimiser has not begun is zero, as it will begin."""
        for i, (name, parameter) in enumerate(self._weights.items()):
            if i % self._world == self._rank:
                yield f"weights/{name}", on_cpu(parameter)
                if parameter.requires_grad:
                    yield from self._share_trained(name)
        if self._rank == 0:
            for name, buffer in lasting_buffers(self._model).items():
                yield f"buffers/{name}", on_cpu(buffer)

    def _share_trained(self, name: str) -> Iterator[tuple[str, Tensor]]:
        if self._average is not None:
            yield f"average/{name}", on_cpu(self._average.shadows[name])
        kept = self._optimizer.state.get(self._weights[name], {})
        for key, shape in state_shapes(self.layout.optimizer, self.layout.weights[name]).items():
            yield f"optimizer/{key}/{name}", on_cpu(kept[key]) if key in kept else torch.zeros(shape)

    @torch.no_grad()
    def load(self, state: Read) -> None:
        """As `Backend.load`."""
        self.layout.check(state)
        load_buffers(self._model, self.layout, state)
        for name, parameter in self._weights.items():
            parameter.copy_(self.layout.read(state, f"weights/{name}"))
        for name in self.layout.trainable:
            if self._average is not None:
                self._average.shadows[name].copy_(self.layout.read(state, f"average/{name}"))
            self._optimizer.state[self._weights[name]] = self._read_optimizer(state, name)

    def _read_optimizer(self, state: Read, name: str) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key in state_shapes(self.layout.optimizer, self.layout.weights[name]):
            value = self.layout.read(state, f"optimizer/{key}/{name}")
            found[key] = value.to(state_device(self._optimizer, key, self._weights[name]), copy=True)
        return found

    def averaged(self) -> AbstractContextManager[None]:
        """As `Backend.averaged`."""
        return self._average.in_force() if self._average is not None else nullcontext()

    def weights(self) -> dict[str, Tensor] | None:
        """As `Backend.weights`."""
        if self._rank != 0:
            return None
        return {name: on_cpu(value) for name, value in {**self._weights, **lasting_buffers(self._model)}.items()}


def on_cpu(value: Tensor) -> Tensor:
    """A copy on the CPU, in fp32 if it is floating point: what is given away must not change with the next step."""
    dtype = torch.float32 if value.is_floating_point() else value.dtype
    return value.detach().to("cpu", dtype, copy=True)


def load_buffers(model: nn.Module, layout: Layout, state: Read) -> None:
    """Buffers of a state, the same in every process."""
    for name, buffer in lasting_buffers(model).items():
        buffer.copy_(layout.read(state, f"buffers/{name}"))


def state_device(optimizer: torch.optim.Optimizer, key: str, parameter: Tensor) -> torch.device:
    """Where an optimiser wants a part of its state: torch's fused ones count steps where the parameter lies."""
    counted_on_cpu = key == "step" and not optimizer.defaults.get("fused")
    return torch.device("cpu") if counted_on_cpu else parameter.device
