"""Autoencoders against models whose density is known, and against themselves in other orders and sizes.

In a linear-Gaussian model, x = W z + b + sigma noise, log p(x) is that of N(b, W W^T + sigma^2 I) exactly.
"""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kxbatch.data.row_draws import row_keys
from kxbatch.models.vae import Vae, objective
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_scoring import Scorer

D, L, SIGMA = 10, 4, 0.6


class Linear(nn.Module):
    """Encoder (the best one with independent dimensions) and decoder of the linear-Gaussian model."""

    def __init__(self, weight_DL: Tensor, bias_D: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight_DL), nn.Parameter(bias_D)

    def encode(self, twice_ND: Tensor) -> Tensor:
        precision_LL = torch.eye(L) + self.weight.T @ self.weight / SIGMA**2
        mean_NL = (twice_ND / 2 - self.bias) @ self.weight / SIGMA**2 @ torch.linalg.inv(precision_LL)
        log_scale_L = -0.5 * precision_LL.diagonal().log()
        return torch.cat([mean_NL, log_scale_L.expand(len(twice_ND), L)], dim=1)

    def decode(self, z_NL: Tensor) -> Tensor:
        return (z_NL @ self.weight.T + self.bias)[:, None]


class Half(nn.Module):
    """One side of the linear model, as a module."""

    def __init__(self, linear: Linear, side: str) -> None:
        super().__init__()
        self.linear, self.side = linear, side

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = getattr(self.linear, self.side)(x)
        return found


def linear_model(orthogonal: bool) -> tuple[Vae, Tensor, Tensor]:
    """The model, 400 rows drawn from it, and their exact log-densities."""
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(D, L, generator=draw)
    straight = torch.linalg.qr(weight).Q * torch.tensor([2.0, 1.0, 0.7, 0.3])
    weight = straight if orthogonal else straight + 0.15 * weight  # the posterior's dimensions depend on each other
    bias = torch.randn(D, generator=draw)
    model = Vae(VaeArchitecture(D, L, hidden=(4,), scale="fixed", scale_size=SIGMA)).eval()
    linear = Linear(weight, bias)
    model.encoder, model.decoder = Half(linear, "encode"), Half(linear, "decode")
    rows = torch.randn(400, L, generator=draw) @ weight.T + bias + SIGMA * torch.randn(400, D, generator=draw)
    covariance = weight @ weight.T + SIGMA**2 * torch.eye(D)
    return model, rows, torch.distributions.MultivariateNormal(bias, covariance).log_prob(rows)


def test_a_mean_field_proposal_approaches_the_exact_density() -> None:
    model, rows, exact = linear_model(orthogonal=False)
    keys = row_keys(range(len(rows)))
    means = [
        Scorer(model, k, seed=0).estimate(rows.numpy(), keys)[0].log_density.mean().item() for k in (1, 5, 50, 5000)
    ]
    assert means == sorted(means)
    assert means[0] < exact.mean().item() - 0.15  # one sample is far off, so what follows proves something
    assert means[-1] == pytest.approx(exact.mean().item(), abs=0.01)


def test_the_standard_error_is_that_of_repeated_estimates() -> None:
    model, rows, _ = linear_model(orthogonal=False)
    keys = row_keys(range(len(rows)))
    found = [Scorer(model, 200, seed).estimate(rows.numpy(), keys)[0] for seed in range(40)]
    spread = torch.stack([one.log_density for one in found]).std(0)
    told = torch.stack([one.stderr for one in found]).mean(0)
    assert (spread / told).median().item() == pytest.approx(1.0, abs=0.15)


def test_with_the_exact_posterior_one_sample_is_enough() -> None:
    model, rows, exact = linear_model(orthogonal=True)  # whose posterior has independent dimensions
    keys = row_keys(range(len(rows)))
    one, _ = Scorer(model, 1, seed=0).estimate(rows.numpy(), keys)
    torch.testing.assert_close(one.log_density.float(), exact, atol=2e-4, rtol=0)
    many, _ = Scorer(model, 64, seed=0).estimate(rows.numpy(), keys)
    assert many.ess.min().item() == pytest.approx(64, rel=1e-4)


def small(likelihood: str = "gaussian", **more: object) -> Vae:
    torch.manual_seed(3)
    return Vae(VaeArchitecture(12, 3, hidden=(16,), likelihood=likelihood, **more)).eval()  # type: ignore[arg-type]


def values(rows: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(rows, 12)).astype(np.float32)


@pytest.mark.parametrize("at_once", [2**9, 2**12, 2**22])
def test_chunks_batches_and_threads_change_no_row(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from kxbatch.models import vae_scoring

    model, u, keys = small(), values(33), row_keys(range(33))
    whole, _ = Scorer(model, 300, seed=2).estimate(u, keys)
    monkeypatch.setitem(vae_scoring._NUMBERS_AT_ONCE, "cpu", at_once)
    cut, _ = Scorer(model, 300, seed=2, threads=3).estimate(u, keys)
    torch.testing.assert_close(cut.log_density, whole.log_density, atol=1e-5, rtol=0)
    order = np.random.default_rng(0).permutation(33)[:7]
    some, _ = Scorer(model, 300, seed=2).estimate(u[order], keys[order])
    torch.testing.assert_close(some.log_density, whole.log_density[order], atol=1e-5, rtol=0)


def test_more_samples_begin_with_the_same_ones() -> None:
    model, u, keys = small(), values(5), row_keys(range(5))
    few = Scorer(model, 10, seed=0).log_weights(u, keys)
    many = Scorer(model, 40, seed=0).log_weights(u, keys)
    torch.testing.assert_close(many[:, :10], few, atol=1e-5, rtol=0)
    assert not torch.equal(Scorer(model, 10, seed=1).log_weights(u, keys), few)


def test_a_hundred_thousand_samples_take_no_more_memory_than_a_thousand() -> None:
    script = """
import resource, sys, numpy as np, torch
from kxbatch.data.row_draws import row_keys
from kxbatch.models.vae import Vae
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_scoring import Scorer
model = Vae(VaeArchitecture(400, 8, hidden=(32,))).eval()
u, keys = np.zeros((2, 400), np.float32), row_keys(range(2))
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
Scorer(model, 1000, 0).estimate(u, keys); before = peak()
Scorer(model, 100_000, 0).estimate(u, keys); print((peak() - before) / 1024)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20  # megabytes; all samples at once would be 2 * 100 000 * 400 * 4 bytes = 320 MB


def test_a_density_in_two_dimensions_has_mass_one() -> None:
    draw = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-1.5, 0.0], [1.0, 1.2], [1.0, -1.0]])
    data = centres[torch.randint(3, (3000,), generator=draw)] + 0.3 * torch.randn(3000, 2, generator=draw)
    torch.manual_seed(0)
    model = Vae(VaeArchitecture(2, 2, hidden=(32, 32), scale="shared", scale_size=0.5, scale_floor=0.15))
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(400):
        batch = data[(step * 100) % 3000 :][:100]
        loss = objective(model, batch, torch.randn(len(batch), 5, 2, generator=draw)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    edge = np.linspace(-4.5, 4.5, 73, dtype=np.float32)
    grid = np.stack(np.meshgrid(edge, edge), axis=-1).reshape(-1, 2)
    found, _ = Scorer(model.eval(), 300, seed=0).estimate(grid, row_keys(range(len(grid))))
    mass = found.log_density.exp().sum().item() * float(edge[1] - edge[0]) ** 2
    assert mass == pytest.approx(1.0, abs=0.01)


def test_one_sample_is_the_loss_of_a_vae_bit_for_bit() -> None:
    model, u = small(), torch.from_numpy(values(20))
    noise = torch.randn(20, 1, 3, generator=torch.Generator().manual_seed(0))
    q = model.encode(u)
    z = q.mean[:, None] + q.log_scale.exp()[:, None] * noise
    kl = (0.5 * (z.square() - noise.square()) - q.log_scale[:, None]).sum(2)
    elbo = model.likelihood(u, model.decoder(z.flatten(0, 1)).view(20, 1, 1, 12)) - kl
    assert torch.equal(objective(model, u, noise).loss, -elbo.squeeze(1).mean())


def gradients(model: Vae, u: Tensor, noise: Tensor, *, doubly: bool) -> tuple[Tensor, Tensor]:
    """Of the encoder and of the decoder, flattened."""
    model.zero_grad()
    objective(model, u, noise, doubly_reparameterised=doubly).loss.backward()
    sides = (model.encoder.parameters(), model.decoder.parameters())
    encoder, decoder = (torch.cat([p.grad.flatten() for p in side if p.grad is not None]) for side in sides)
    return encoder, decoder


def test_the_doubly_reparameterised_gradient_has_the_same_mean_and_less_noise() -> None:
    model, u = small(), torch.from_numpy(values(1))
    draw = torch.Generator().manual_seed(0)
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    for _ in range(1500):
        noise = torch.randn(1, 8, 3, generator=draw)
        encoder, decoder = gradients(model, u, noise, doubly=False)
        sharper, same = gradients(model, u, noise, doubly=True)
        torch.testing.assert_close(same, decoder)
        found[False].append(encoder)
        found[True].append(sharper)
    plain, doubly = (torch.stack(found[key]) for key in (False, True))
    error = (plain.var(0) / len(plain)).sum().sqrt()
    assert (plain.mean(0) - doubly.mean(0)).norm() < 3 * error
    assert doubly.var(0).sum() < plain.var(0).sum()


def test_free_bits_and_warm_up_change_the_loss_as_told() -> None:
    model, u = small(), torch.from_numpy(values(50))
    noise = torch.randn(50, 1, 3, generator=torch.Generator().manual_seed(0))
    plain = objective(model, u, noise)
    half = objective(model, u, noise, kl_weight=0.5)
    assert (plain.loss - half.loss).item() == pytest.approx(0.5 * plain.kl.item(), rel=1e-4)
    assert half.bound.item() == pytest.approx(plain.bound.item())  # what is reported has the KL at full weight
    free = objective(model, u, noise, free_bits=100.0)
    assert free.loss.item() == pytest.approx(plain.loss.item() - plain.kl.item() + 3 * 100, rel=1e-4)


@pytest.mark.parametrize("shape", [(8, 8, 1), (7, 5, 3), (28, 28, 1)])
def test_convolutions_meet_any_size(shape: tuple[int, int, int]) -> None:
    size = math.prod(shape)
    config = VaeArchitecture(
        size,
        4,
        shape=shape,
        network="conv",
        hidden=(6, 8),
        likelihood="discretised-logistic",
        levels=17,
        scale="predicted",
    )
    torch.manual_seed(0)
    model = Vae(config)
    u = torch.randint(17, (3, size)) / 16
    found = objective(model, u, torch.randn(3, 2, 4))
    found.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    pixel = (2, 3, 0)  # a value is where the row says it is: of the image and of what is decoded
    at = np.ravel_multi_index(pixel, shape)
    image = torch.zeros(1, size)
    image[0, at] = 1.0
    seen = model.encoder.layers[0](image.view(-1, *shape).permute(0, 3, 1, 2))
    assert seen.shape[2:] == ((shape[0] + 1) // 2, (shape[1] + 1) // 2)
