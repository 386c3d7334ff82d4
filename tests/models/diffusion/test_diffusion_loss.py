"""What denoisers are trained on: by hand, and against denoisers that are the best there are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusion_oracle import Mixture
from torch import Tensor, nn

from kxbatch.kernels.diffusion import PREDICTIONS, Prediction, Schedule, at, make_schedule
from kxbatch.models.diffusion.config import MlpConfig
from kxbatch.models.diffusion.loss import Objective
from kxbatch.models.diffusion.networks import make_network


def says(value: float) -> nn.Module:
    """A network that says one number whatever it is asked."""

    class Says(nn.Module):
        def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
            return torch.full_like(x_BD, value)

    return Says()


def test_the_loss_by_hand() -> None:
    schedule = make_schedule("linear", 2, first=0.36, last=0.75)
    assert schedule.A[1:] == pytest.approx([0.8, 0.4])  # B is 0.6 and sqrt(0.84), SNR 16 / 9 and 4 / 21
    x0, eps = torch.tensor([[1.0, -1.0], [0.5, 2.0]]), torch.tensor([[0.5, 1.0], [-1.0, 0.0]])
    t = torch.tensor([1, 2])

    def loss(kind: Prediction, weighting: str, gamma: float = 5.0) -> tuple[float, float]:
        found = Objective(schedule, kind, weighting, gamma)(says(0.5), x0, eps, t)  # type: ignore[arg-type]
        return found.loss.item(), found.noise_error.item()

    noise = (0.0 + 0.25, 2.25 + 0.25)  # |0.5 - eps|^2 of both rows
    assert loss("eps", "simple") == pytest.approx((sum(noise) / 2, sum(noise) / 4))
    assert loss("eps", "snr") == pytest.approx(loss("eps", "simple"))
    data = (0.25 + 2.25, 0.0 + 2.25)
    weighed = (16 / 9 * data[0] + 4 / 21 * data[1]) / 2
    assert loss("x0", "simple") == pytest.approx((sum(data) / 2, weighed / 2))
    assert loss("x0", "snr") == pytest.approx((weighed, weighed / 2))
    assert loss("x0", "min-snr", 1.0)[0] == pytest.approx((data[0] + 4 / 21 * data[1]) / 2)
    low = 0.84**0.5
    v = ((0.4 - 0.6, 0.8 + 0.6), (-0.4 - low * 0.5, -low * 2.0))
    error = [sum((0.5 - one) ** 2 for one in row) for row in v]
    assert loss("v", "simple")[0] == pytest.approx(sum(error) / 2)
    assert loss("v", "snr")[0] == pytest.approx((0.64 * error[0] + 0.16 * error[1]) / 2)


def test_the_loss_is_a_sum_over_values_and_its_gradient_one_over_rows() -> None:
    schedule = make_schedule("cosine", 10)
    network = make_network(MlpConfig(6, width=8, layers=1))
    x0, eps, t = torch.randn(4, 6), torch.randn(4, 6), torch.tensor([1, 3, 7, 10])
    objective = Objective(schedule, "eps")
    assert objective(network, x0, eps, t).loss.item() == pytest.approx(eps.square().sum(1).mean().item(), rel=1e-6)
    assert objective(network, x0, eps, t).noise_error.item() == pytest.approx(eps.square().mean().item(), rel=1e-6)
    whole = objective(network, x0, eps, t).loss
    parts = [objective(network, x0[i : i + 1], eps[i : i + 1], t[i : i + 1]).loss.item() for i in range(4)]
    assert whole.item() == pytest.approx(np.mean(parts), rel=1e-6)
    assert not objective(network, x0, eps, t).noise_error.requires_grad


MIXTURE = Mixture((0.4, 0.6), (-1.0, 0.8), (0.1, 0.15))
SCHEDULE = make_schedule("linear", 50, first=2e-3, last=0.1)
MEAN = float(np.dot(MIXTURE.shares, MIXTURE.means))
VARIANCE = float(np.dot(MIXTURE.shares, np.square(MIXTURE.sds) + np.square(MIXTURE.means))) - MEAN**2


def mixed(draw: int, count: int, classes: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """x_0, eps, times of 1 to 50, and the component of each row if wanted."""
    rng = np.random.default_rng(draw)
    which = rng.choice(2, size=(count, 1), p=MIXTURE.shares)
    x0 = rng.normal(np.array(MIXTURE.means)[which], np.array(MIXTURE.sds)[which]).astype(np.float32)
    eps, t = rng.standard_normal((count, 1)).astype(np.float32), rng.integers(1, 51, count)
    told = torch.from_numpy(which[:, 0]) if classes else None
    return torch.from_numpy(x0), torch.from_numpy(eps), torch.from_numpy(t), told


def learned(objective: Objective, classes: int = 0) -> nn.Module:
    torch.manual_seed(0)
    network = make_network(MlpConfig(1, classes=classes, width=32, layers=2))
    optimizer = torch.optim.Adam(network.parameters(), 4e-3)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 4e-3 * (1 - step / 200)
        x0, eps, t, told = mixed(step, 256, classes > 0)
        if told is not None:
            told = torch.where(torch.arange(len(told)) % 5 == 0, classes, told)
        optimizer.zero_grad()
        objective(network, x0, eps, t, told).loss.backward()
        optimizer.step()
    return network.eval()


class Best(nn.Module):
    """The denoiser that no other beats: it knows the mixture."""

    def __init__(self, schedule: Schedule, kind: Prediction) -> None:
        super().__init__()
        self._denoiser = MIXTURE.denoiser(schedule, kind)

    def forward(self, x_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None) -> Tensor:
        return self._denoiser.predict(x_BD.double(), t_B)


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_a_tiny_network_learns_a_mixture(kind: Prediction) -> None:
    schedule, objective = SCHEDULE, Objective(SCHEDULE, kind)
    network, test = learned(objective), mixed(10**6, 20_000)[:3]
    with torch.no_grad():
        found = objective(network, *test).loss.item()
        best = objective(Best(schedule, kind), *test).loss.item()
    A, B = schedule.A[1:], schedule.B[1:]
    # the least loss of a denoiser that knows mean and variance alone: what a normal distribution leaves unknown of x_0 is c
    unknown = VARIANCE * B**2 / (A**2 * VARIANCE + B**2)
    on_x0 = {"eps": A**2 / B**2, "x0": np.ones_like(A), "v": A**2 / B**2 + 1}[kind]
    linear = float(np.mean(on_x0 * unknown))
    assert best < 0.95 * linear, "there is something to be learned beyond mean and variance"
    assert found < best + 0.2 * (linear - best)
    assert found > best - 0.01


def test_a_class_tells_what_noise_hides() -> None:
    schedule, objective = SCHEDULE, Objective(SCHEDULE, "x0")
    network = learned(objective, classes=2)
    x0, eps, t, told = mixed(10**6, 20_000, classes=True)
    none = torch.full_like(t, 2)
    with torch.no_grad():
        by_class, without = (objective(network, x0, eps, t, one).loss.item() for one in (told, none))
        best = objective(Best(schedule, "x0"), x0, eps, t).loss.item()
        wrong = objective(network, x0, eps, t, 1 - told).loss.item()  # type: ignore[operator]
    assert told is not None
    sd2 = torch.tensor(MIXTURE.sds)[told].double() ** 2
    signal, noise = (at(table, t, sd2) ** 2 for table in (schedule.A, schedule.B))
    least = (sd2 * noise / (signal * sd2 + noise)).mean().item()  # of each component on its own
    assert least < best / 2
    assert by_class < least + 0.25 * (best - least)
    assert without == pytest.approx(best, rel=0.1)
    assert wrong > without
