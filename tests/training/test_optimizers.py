"""Which parameters decay; LAMB against numpy in float64, and its properties; what an optimiser keeps for a parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kxbatch.spec.training import OptimizerConfig
from kxbatch.training.lamb import Lamb
from kxbatch.training.optimizers import make_optimizer, state_shapes

KINDS = ["adamw", "lamb", "adafactor"]


def config(kind: str, **others: Any) -> OptimizerConfig:
    return OptimizerConfig.model_validate({"kind": kind, **others})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.norm = nn.LayerNorm(4)
        self.fixed = nn.Linear(4, 4).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self.out = nn.Linear(4, 9)
        self.out.weight = self.embedding.weight
        self.filters = nn.Parameter(torch.randn(2, 3, 5))


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_decay_once_and_nothing_else_does(kind: str) -> None:
    model = Tied()
    decaying, others = make_optimizer(model, config(kind, weight_decay=0.3, rate=0.5)).param_groups
    assert decaying["weight_decay"] == 0.3
    assert others["weight_decay"] == 0
    assert decaying["lr"] == others["lr"] == 0.5
    assert [id(p) for p in decaying["params"]] == [id(model.filters), id(model.embedding.weight)]
    assert {id(p) for p in others["params"]} == {id(model.scale), *map(id, model.norm.parameters()), id(model.out.bias)}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_kept_for_a_parameter(kind: str) -> None:
    model = Tied()
    optimizer = make_optimizer(model, config(kind))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    for parameter in filter(lambda p: p.requires_grad, model.parameters()):
        kept = {key: value.shape for key, value in optimizer.state[parameter].items()}
        assert kept == state_shapes(kind, parameter.shape)


def lamb_in_numpy(
    w: np.ndarray, gradients: list[np.ndarray], rate: float, betas: tuple[float, float], eps: float, decay: float
) -> np.ndarray:
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        u = m / (1 - betas[0] ** t) / (np.sqrt(v / (1 - betas[1] ** t)) + eps) + decay * w
        lengths = np.linalg.norm(w), np.linalg.norm(u)
        w = w - rate * (lengths[0] / lengths[1] if min(lengths) > 0 else 1.0) * u
    return w


def steps(optimizer: torch.optim.Optimizer, parameter: Tensor, gradients: list[np.ndarray]) -> np.ndarray:
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).to(parameter.dtype)
        optimizer.step()
    return parameter.detach().numpy()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("start", [0.0, 1.0])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_lamb_is_the_formula(decay: float, start: float, dtype: torch.dtype, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    w = start * rng.normal(size=(7, 5))
    gradients = [rng.normal(size=w.shape) for _ in range(6)]
    parameter = torch.from_numpy(w.copy()).to(dtype).requires_grad_()
    found = steps(Lamb([parameter], 0.03, (0.8, 0.95), 1e-6, decay), parameter, gradients)
    wanted = lamb_in_numpy(w, gradients, 0.03, (0.8, 0.95), 1e-6, decay)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance)


def lamb_of(w: np.ndarray, gradients: list[np.ndarray], **others: Any) -> np.ndarray:
    parameter = torch.from_numpy(w.copy()).requires_grad_()
    return steps(Lamb([parameter], **{"lr": 0.02, "eps": 1e-30, "weight_decay": 0.0, **others}), parameter, gradients)


def test_a_step_of_lamb_is_a_set_share_of_the_weight() -> None:
    rng = np.random.default_rng(1)
    w, g = rng.normal(size=(2, 6, 3))
    moved = lamb_of(w, [g], weight_decay=0.1) - w
    assert np.linalg.norm(moved) == pytest.approx(0.02 * np.linalg.norm(w), rel=1e-12)


def test_lamb_knows_no_scale() -> None:
    """Gradients of any size lead to the same weights; weights of any size move alike."""
    rng = np.random.default_rng(2)
    w, *gradients = rng.normal(size=(5, 4, 4))
    once = lamb_of(w, gradients)
    np.testing.assert_allclose(lamb_of(w, [1000 * g for g in gradients]), once, rtol=1e-10)
    np.testing.assert_allclose(lamb_of(50 * w, gradients), 50 * once, rtol=1e-10)


def test_lamb_from_zero_is_adam() -> None:
    g = np.random.default_rng(3).normal(size=(4, 4))
    parameter = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    np.testing.assert_allclose(
        lamb_of(np.zeros((4, 4)), [g]),
        steps(torch.optim.Adam([parameter], lr=0.02, eps=1e-30), parameter, [g]),
        rtol=1e-12,
    )


def test_lamb_leaves_alone_what_has_no_gradient() -> None:
    used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    optimizer = Lamb([used, unused])
    used.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3))
    assert unused not in optimizer.state
    assert not torch.equal(used, torch.ones(3))
