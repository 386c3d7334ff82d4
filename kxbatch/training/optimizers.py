"""The optimiser that a job asks for, and which parameters it decays."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kxbatch.spec.training import OptimizerConfig
from kxbatch.training.lamb import Lamb


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """An optimiser over the model's trainable parameters, at the peak rate.

    Those of 2 or more dimensions decay; vectors and scalars (norms, biases, gains) do not. A tied parameter is there once.

    Args:
        model: whole, not yet sharded.
        config: kind and constants; Adafactor has no first moment, so it knows neither `beta1` nor `epsilon`.
    """
    groups = decay_groups(model, config.weight_decay)
    if config.kind == "adafactor":  # torch's own `eps` is a pair of floors, not an addition to the root
        return torch.optim.Adafactor(groups, lr=config.rate)
    betas = (config.beta1, config.beta2)
    if config.kind == "lamb":
        return Lamb(groups, lr=config.rate, betas=betas, eps=config.epsilon)
    return torch.optim.AdamW(groups, lr=config.rate, betas=betas, eps=config.epsilon, fused=True)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups: what decays, then what does not; a group without parameters is left out."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def state_shapes(kind: str, shape: torch.Size) -> dict[str, torch.Size]:
    """Keys of the state that an optimiser keeps for one parameter, with their shapes; all zero before the first step.

    Args:
        kind: as in `OptimizerConfig`.
        shape: of the parameter.
    """
    scalar = torch.Size()
    if kind != "adafactor":
        return {"step": scalar, "exp_avg": shape, "exp_avg_sq": shape}
    if len(shape) < 2:
        return {"step": scalar, "variance": shape}
    return {"step": scalar, "row_var": torch.Size((*shape[:-1], 1)), "col_var": torch.Size((*shape[:-2], 1, shape[-1]))}
