"""LAMB: Adam's direction, with a step as long as a set share of the parameter it moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lamb(Optimizer):
    """You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2.

    With Adam's corrected moments `m` and `v` of a parameter `w`,

        u = m / (sqrt(v) + epsilon) + weight_decay * w
        w <- w - rate * |w| / |u| * u

    where the trust ratio `|w| / |u|` is 1 if either norm is 0. The norms are Euclidean, over the whole parameter, so a
    parameter must not be cut up or joined with others. State of each: `step` (fp32, 0-dim, in memory), `exp_avg` and
    `exp_avg_sq` (as the parameter).

    Args:
        params: parameters or groups.
        lr: share of its own norm by which a parameter moves in a step.
        betas: decay of the first and of the second moment.
        eps: added to the root of the second moment.
        weight_decay: part of the update, before the trust ratio.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient.

        Args:
            closure: works out the loss and the gradients again, where a caller wants that.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            weights = [p for p in group["params"] if p.grad is not None]
            if weights:
                self._update(weights, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        directions = self._directions(weights, group)
        if group["weight_decay"]:
            torch._foreach_add_(directions, weights, alpha=group["weight_decay"])
        weight_norms = torch.stack(torch._foreach_norm(weights))
        direction_norms = torch.stack(torch._foreach_norm(directions))
        moves = (weight_norms > 0) & (direction_norms > 0)
        trust = torch.where(moves, weight_norms / direction_norms, 1.0)  # stays on the device: no waiting for the GPU
        torch._foreach_mul_(directions, list(trust.unbind()))
        torch._foreach_add_(weights, directions, alpha=-group["lr"])

    def _directions(self, weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Adam's directions; the corrections `1 / (1 - beta^t)` are folded into the denominator, which saves a pass."""
        beta1, beta2 = group["betas"]
        gradients = [p.grad for p in weights if p.grad is not None]
        states = [self.state[p] or self._begin(p) for p in weights]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        for state in states:
            state["step"] += 1
        steps = [state["step"].item() for state in states]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        roots = torch._foreach_sqrt(second)
        torch._foreach_mul_(roots, [(1 - beta1**t) / math.sqrt(1 - beta2**t) for t in steps])
        torch._foreach_add_(roots, [(1 - beta1**t) * group["eps"] for t in steps])
        return list(torch._foreach_div(first, roots))

    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        state["step"] = torch.zeros((), dtype=torch.float32)
        state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg_sq"] = torch.zeros_like(weight)
        return state
