"""The backend of one process: what a step is, what the state holds, and what is refused."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training.trainable import Trainable, batch

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.optimizers import make_optimizer
from kxbatch.training.plain import PlainBackend

CPU = torch.device("cpu")


def backend(model: nn.Module | None = None, seed: int = 0, **others: Any) -> PlainBackend:
    torch.manual_seed(seed)
    made = model or Trainable()
    config = TrainingConfig.model_validate({"batch_rows": 8, "precision": "fp32", **others})
    return PlainBackend(made, config, CPU, make_optimizer(made, config.optimizer))


def train(held: PlainBackend, first: int, last: int, micro: int = 1) -> list[float]:
    losses = []
    for step in range(first, last):
        for i, rows in enumerate(batch(step, 8).chunk(micro)):
            with held.forward_context():
                loss = held.model(rows)
            held.backward(loss, last=i == micro - 1)
            losses.append(float(loss.detach()))
        held.step(0.02)
    return losses


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_micro_batches_make_the_same_step_as_one_batch() -> None:
    whole, parts = backend(clip=None), backend(clip=None, micro_rows=2)
    train(whole, 0, 3)
    train(parts, 0, 3, micro=4)
    for name, value in whole.weights().items():
        torch.testing.assert_close(parts.weights()[name], value, rtol=0, atol=2e-6)


def test_the_norm_is_that_before_clipping_and_the_step_that_after() -> None:
    line = nn.Linear(2, 1, bias=False)
    held = backend(line, clip=0.5, optimizer={"weight_decay": 0})
    held._optimizer = torch.optim.SGD(line.parameters(), lr=9.0)
    before = line.weight.detach().clone()
    held.backward(line(torch.tensor([[3.0, 4.0]])).sum(), last=True)
    assert float(held.step(0.1)) == pytest.approx(5.0)
    torch.testing.assert_close(line.weight.detach(), before - 0.1 * torch.tensor([[0.3, 0.4]]))


def test_the_average_follows_and_is_in_force_only_within() -> None:
    held = backend(ema=0.75)
    shadow = held.weights()
    for step in range(4):
        train(held, step, step + 1)
        shadow = {name: 0.75 * value + 0.25 * held.weights()[name] for name, value in shadow.items()}
    now = held.weights()
    with suppress(KeyError), held.averaged():
        averaged = held.weights()
        raise KeyError
    for name, value in averaged.items():
        torch.testing.assert_close(value, shadow[name], rtol=0, atol=1e-6)
    assert same(held.weights(), now)
    train(held, 4, 5)
    assert not same(held.weights(), now)


@pytest.mark.parametrize("kind", ["adamw", "lamb", "adafactor"])
@pytest.mark.parametrize("precision", ["fp32", "autocast"])
@pytest.mark.parametrize("stopped", [0, 3])
def test_goes_on_as_if_never_stopped(kind: str, precision: str, stopped: int) -> None:
    others: dict[str, Any] = {"optimizer": {"kind": kind}, "precision": precision, "ema": 0.9}
    first, second = backend(**others), backend(seed=5, **others)
    train(first, 0, stopped)
    second.load(dict(first.share()))
    assert train(second, stopped, 6) == train(first, stopped, 6)
    assert same(dict(second.share()), dict(first.share()))


def test_the_state_has_every_tensor_once_and_does_not_change_with_the_next_step() -> None:
    held = backend(ema=0.9)
    train(held, 0, 2)
    names = [name for name, _ in held.share()]
    assert len(names) == len(set(names))
    assert {name for name in names if name.startswith(("weights/", "buffers/"))} == {
        *(f"weights/{name}" for name, _ in held.model.named_parameters()),
        "buffers/offset",
    }
    assert "average/fixed" not in names
    assert "optimizer/exp_avg/embedding.weight" in names
    kept = dict(held.share())
    copy = {name: value.clone() for name, value in kept.items()}
    train(held, 2, 3)
    assert same(kept, copy)


def test_autocast_is_bf16_arithmetic_on_fp32_weights() -> None:
    line = nn.Linear(4, 4)
    held = backend(line, precision="autocast")
    with held.forward_context():
        assert held.model(torch.ones(1, 4)).dtype == torch.bfloat16
    assert {p.dtype for p in line.parameters()} == {torch.float32}
    with backend(line, precision="fp32").forward_context():
        assert line(torch.ones(1, 4)).dtype == torch.float32


def test_a_gradient_that_is_no_number_changes_nothing() -> None:
    held = backend(ema=0.9)
    train(held, 0, 2)
    before = dict(held.share())
    held.backward(held.model(batch(2, 8)) * float("nan"), last=True)
    assert not held.step(0.1).isfinite()
    assert same(dict(held.share()), before)
    train(held, 2, 3)
    assert not same(dict(held.share()), before)


def test_bf16_weights_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"'bf16' needs DeepSpeed.*'autocast'"):
        backend(precision="bf16")


def test_a_state_of_another_model_is_refused_by_name() -> None:
    held = backend()
    state = dict(held.share())
    with pytest.raises(
        ConfigError, match=r"has no 'weights/embedding\.weight', .*exp_avg/embedding\.weight' and 1 more"
    ):
        held.load({name: value for name, value in state.items() if "embedding" not in name})
    with pytest.raises(
        ConfigError, match=r"has 'weights/linear\.wieght', unknown here; did you mean 'weights/linear\.weight'"
    ):
        held.load({**state, "weights/linear.wieght": torch.zeros(1)})
    with pytest.raises(ConfigError, match=r"'weights/linear\.weight' has shape \[2, 2\], here it is \[15, 7\]"):
        held.load({**state, "weights/linear.weight": torch.zeros(2, 2)})
    with pytest.raises(ConfigError, match=r"has no .*'optimizer/row_var/embedding\.weight'"):
        backend(optimizer={"kind": "adafactor"}).load(state)
