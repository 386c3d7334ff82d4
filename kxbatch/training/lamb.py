"""LAMB: Adam's direction, with a step as long as a set share of the parameter it moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.adamw import adamw


class Lamb(Optimizer):
    """You et al. 2020, "Large Batch Optimization for Deep Learning", algorithm 2.

    With Adam's corrected moments `m` and `v` of a parameter `w`,

        u = m / (sqrt(v) + epsilon) + weight_decay * w
        w <- w - rate * |w| / |u| * u

    where the trust ratio `|w| / |u|` is 1 if either norm is 0. The norms are Euclidean, over the whole parameter, so a
    parameter must not be cut up or joined with others. State of each: `step` (fp32, 0-dim), `exp_avg` and `exp_avg_sq` (as
    the parameter).

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
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "fused": True})

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
            for bunch in _bunches(weights):
                self._update(bunch, group)
        return loss

    def _update(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        descents = self._descents(weights, group)
        if group["weight_decay"]:
            torch._foreach_sub_(descents, weights, alpha=group["weight_decay"])
        weight_norms = torch.stack(torch._foreach_norm(weights))
        descent_norms = torch.stack(torch._foreach_norm(descents))
        moves = (weight_norms > 0) & (descent_norms > 0)
        trust = torch.where(moves, weight_norms / descent_norms, 1.0)  # stays on the device: no waiting for the GPU
        torch._foreach_mul_(descents, list((group["lr"] * trust).unbind()))
        torch._foreach_add_(weights, descents)

    def _descents(self, weights: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        """Minus Adam's directions: where a step of rate 1 from 0 ends, without decay; torch has a one-pass kernel for it."""
        states = [self.state[p] or self._begin(p) for p in weights]
        ends = [torch.zeros_like(p) for p in weights]
        adamw(
            ends,
            [p.grad for p in weights if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            max_exp_avg_sqs=[],
            state_steps=[state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=1.0,
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
        )
        return ends

    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
        state["exp_avg"] = torch.zeros_like(weight)
        state["exp_avg_sq"] = torch.zeros_like(weight)
        return state


def _bunches(weights: list[Tensor]) -> list[list[Tensor]]:
    """What is updated together: on a GPU all, for few launches; on a CPU one by one, for each then stays in the caches."""
    if not weights:
        return []
    return [weights] if weights[0].is_cuda else [[weight] for weight in weights]
