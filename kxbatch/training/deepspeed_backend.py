"""The backend of several processes: DeepSpeed."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.distributed as dist
from pydantic import ValidationError
from torch import Tensor, nn
from torch.distributed import HashStore  # type: ignore[attr-defined]
from torch.nn.utils import get_total_norm

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.backend import Read
from kxbatch.training.deepspeed_config import deepspeed_config
from kxbatch.training.layout import Layout
from kxbatch.training.precision import Precision, forward_context, training_precision
from kxbatch.training.sharded import ShardedState
from kxbatch.training.whole import WholeState


class DeepSpeedBackend:
    """`Backend` of a model that processes share by ZeRO. They are joined already, or RANK and its kin say how.

    At stage 3 DeepSpeed puts a linear layer of its own in the place of torch's, for the whole process: it lets go of
    weights between forward and backward, and under autocast rounds once more than torch's does.

    Args:
        model: fp32, the same in all processes; DeepSpeed takes it over.
        config: precision, batches, clipping, averaging and ZeRO stage.
        device: where this process computes.
        optimizer: over the model's parameters, of the kind that `config` names.
        override: parsed file of `deepspeed.file`.

    Raises:
        ConfigError: the combination cannot work (see `deepspeed_config`), or DeepSpeed is not there or refuses a value.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device,
        optimizer: torch.optim.Optimizer,
        override: Mapping[str, Any] | None = None,
    ) -> None:
        join_processes(device)
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.device = device
        self.precision = training_precision(config.precision, device)
        settings = deepspeed_config(config, self.world, device, override)
        deepspeed = load_deepspeed(device)
        layout = Layout.of(model, config)
        self._cache = config.deepspeed.zero < 3
        computing = _Computing(model, self.precision, device, self._cache)
        try:
            self._engine, *_ = deepspeed.initialize(model=computing, optimizer=optimizer, config=settings)
        except ValidationError as error:
            raise ConfigError(f"deepspeed.file: DeepSpeed refuses a value: {error}") from error
        self.model: nn.Module = self._engine
        self._optimizer = optimizer
        self._zero = config.deepspeed.zero
        self._state: WholeState | ShardedState
        if self._zero:
            self._state = ShardedState(self._engine, model, layout, config.ema, device)
        else:
            self._state = WholeState(model, config, optimizer, self.rank, self.world)
        self._engine.set_gradient_accumulation_boundary(False)

    def forward_context(self) -> AbstractContextManager[None]:
        """Autocast, where the precision asks for it; for what is computed outside the model, which has its own."""
        return forward_context(self.precision, self.device, cache=self._cache)

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Gradients of one micro-batch are added to those of the step; the last one's brings those of all processes."""
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss)

    def step(self, rate: float) -> Tensor:
        """Clip, update the weights and their average; returns the gradient's norm before clipping, 0-dim.

        Where the norm is not finite, weights, optimiser and average stay as they are.
        """
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        norm = self._step_whole() if self._zero == 0 else self._step_sharded()
        self._engine.set_gradient_accumulation_boundary(False)
        if norm.isfinite():
            self._state.stepped()
        return norm

    def _step_sharded(self) -> Tensor:
        """ZeRO leaves out the step of a gradient that is not finite."""
        self._engine.step()
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def _step_whole(self) -> Tensor:
        """At stage 0 DeepSpeed leaves out nothing, and clips without telling the norm."""
        norm = get_total_norm([p.grad for p in self._engine.module.parameters() if p.grad is not None])
        if norm.isfinite():
            self._engine.step()
        else:
            self._engine.zero_grad()
        return norm

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a 0-dim or flat tensor over the processes, the same in all of them."""
        total = value.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total / self.world

    def barrier(self) -> None:
        """All processes get here before one goes on."""
        dist.barrier()

    def share(self) -> Iterator[tuple[str, Tensor]]:
        """This process's share of the state, whole tensors on the CPU, one at a time; all go through it to the end."""
        return self._state.share()

    def load(self, state: Read) -> None:
        """Take over a state that `share` gave in any number of processes, at any ZeRO stage.

        Raises:
            ConfigError: names or shapes are not those of this model; names them.
        """
        self._state.load(state)

    def averaged(self) -> AbstractContextManager[None]:
        """Within it the model has the averaged weights, where there are any; no step and no `share` belongs there."""
        return self._state.averaged()

    def weights(self) -> dict[str, Tensor] | None:
        """All weights and buffers, fp32 on the CPU, in process 0; a tied parameter under its first name only."""
        return self._state.weights()


class _Computing(nn.Module):
    """The model with autocast inside: on GPUs DeepSpeed switches off one that is entered outside."""

    def __init__(self, model: nn.Module, precision: Precision, device: torch.device, cache: bool) -> None:
        super().__init__()
        self.model = model
        self._how = (precision, device, cache)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        precision, device, cache = self._how
        with forward_context(precision, device, cache=cache):
            return self.model(*args, **kwargs)


def join_processes(device: torch.device) -> None:
    """Make the process group, unless the launcher has; alone where the environment names no others."""
    if dist.is_initialized():
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    if "RANK" in os.environ:
        dist.init_process_group(backend)
    else:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1)


def load_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, quiet, for this device, and kept from compiling anything. The processes are joined already.

    Raises:
        ConfigError: it is not installed, or was loaded for another device.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)  # else it takes a GPU that is there and not asked for
    os.environ.setdefault("LOCAL_RANK", str(device.index or 0))
    try:
        import deepspeed
        import deepspeed.ops
        from deepspeed.accelerator import get_accelerator
        from deepspeed.utils import logger
    except ImportError as error:
        raise ConfigError("training in several processes needs DeepSpeed: pip install 'kxbatch[train]'") from error
    if get_accelerator().device_name() != device.type:
        found = get_accelerator().device_name()
        raise ConfigError(f"DeepSpeed is set up for {found}, the model computes on {device.type}; unset DS_ACCELERATOR")
    logger.setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")  # of its own calls
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # compiles for a minute, and can hang
    deepspeed.init_distributed(dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False)
    return deepspeed
