"""What the state of a training consists of: names and shapes, whoever holds which part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError, nearest
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.optimizers import state_shapes

NAMED = 3  # how many wrong names a message lists


@dataclass(frozen=True)
class Layout:
    """Names and shapes of a model's state, taken while it was whole.

    Attributes:
        weights: shape of every parameter, tied ones once, in the model's order.
        trainable: names of those that are trained.
        buffers: shapes of what `state_dict` holds beside the parameters.
        optimizer: kind of the optimiser.
        average: whether the weights are averaged.
    """

    weights: dict[str, torch.Size]
    trainable: tuple[str, ...]
    buffers: dict[str, torch.Size]
    optimizer: str
    average: bool

    @classmethod
    def of(cls, model: nn.Module, config: TrainingConfig) -> Layout:
        """Layout of a model that is not sharded yet."""
        return cls(
            weights={name: p.shape for name, p in model.named_parameters()},
            trainable=tuple(name for name, p in model.named_parameters() if p.requires_grad),
            buffers={name: b.shape for name, b in lasting_buffers(model).items()},
            optimizer=config.optimizer.kind,
            average=config.ema is not None,
        )

    def state(self) -> dict[str, torch.Size]:
        """Names as in `Backend.share`, with their shapes."""
        shapes = {f"weights/{name}": shape for name, shape in self.weights.items()}
        for name in self.trainable:
            if self.average:
                shapes[f"average/{name}"] = self.weights[name]
            for key, shape in state_shapes(self.optimizer, self.weights[name]).items():
                shapes[f"optimizer/{key}/{name}"] = shape
        return shapes | {f"buffers/{name}": shape for name, shape in self.buffers.items()}

    def check(self, state: Mapping[str, Tensor]) -> None:
        """Every name is there and no other.

        Raises:
            ConfigError: names that lack or are unknown.
        """
        wanted = self.state()
        lacking = [name for name in wanted if name not in state]
        unknown = [name for name in state if name not in wanted]
        if lacking:
            raise ConfigError(f"this state is of another model or optimiser: it has no {_some(lacking)}")
        if unknown:
            hint = nearest(unknown[0], wanted)
            raise ConfigError(
                f"this state is of another model or optimiser: it has {_some(unknown)}, unknown here{hint}"
            )

    def read(self, state: Mapping[str, Tensor], name: str) -> Tensor:
        """One tensor of a state.

        Raises:
            ConfigError: its shape is not the model's.
        """
        value, wanted = state[name], self.state_shape(name)
        if value.shape != wanted:
            raise ConfigError(
                f"this state is of another model: '{name}' has shape {list(value.shape)}, here it is {list(wanted)}"
            )
        return value

    def state_shape(self, name: str) -> torch.Size:
        """Shape of one tensor of the state."""
        part, _, rest = name.partition("/")
        if part == "optimizer":
            key, _, parameter = rest.partition("/")
            return state_shapes(self.optimizer, self.weights[parameter])[key]
        return self.buffers[rest] if part == "buffers" else self.weights[rest]


def lasting_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state; those it can work out again do not."""
    kept = model.state_dict(keep_vars=True).keys()
    return {name: buffer for name, buffer in model.named_buffers() if name in kept}


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(f"'{name}'" for name in names[:NAMED]) + more
