"""Step by step beside the schedulers of `diffusers`, which count times from 0 to T - 1 and keep float32 tables."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.schedulers import scheduling_ddpm
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusion_oracle import Mixture
from torch import Tensor

from kxbatch.kernels.diffusion import (
    START,
    Ancestral,
    Ddim,
    Denoiser,
    Prediction,
    RowNoise,
    Schedule,
    make_schedule,
    q_sample,
    sample,
    spaced_times,
    target,
)

DOUBLE = torch.float64
PEER_KINDS: dict[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
PEER_SCHEDULES = {"linear": "linear", "squaredcos_cap_v2": "cosine"}


def with_our_tables(peer: Any, schedule: Schedule) -> Any:
    """The peer's arithmetic on float64 tables: what is left is the formulas."""
    peer.alphas_cumprod = torch.tensor(schedule.A[1:] ** 2)
    peer.betas, peer.alphas = torch.tensor(schedule.b[1:] ** 2), torch.tensor(schedule.a[1:] ** 2)
    return peer


@pytest.mark.parametrize("beta_schedule", PEER_SCHEDULES)
def test_schedules_agree(beta_schedule: str) -> None:
    peer, schedule = DDPMScheduler(1000, beta_schedule=beta_schedule), make_schedule(PEER_SCHEDULES[beta_schedule])
    assert peer.betas.numpy() == pytest.approx(schedule.b[1:] ** 2, rel=1e-6, abs=1e-7)
    assert peer.alphas_cumprod.numpy() == pytest.approx(schedule.A[1:] ** 2, rel=1e-4, abs=1e-10)


def test_noised_data_and_targets_agree() -> None:
    schedule, generator = make_schedule("linear"), torch.Generator().manual_seed(0)
    x0, eps = (torch.randn(5, 3, 4, 4, dtype=DOUBLE, generator=generator) for _ in range(2))
    t_B = torch.tensor([1, 2, 500, 999, 1000])
    peer = with_our_tables(DDPMScheduler(1000), schedule)
    torch.testing.assert_close(q_sample(schedule, x0, eps, t_B), peer.add_noise(x0, eps, t_B - 1), rtol=0, atol=1e-10)
    torch.testing.assert_close(
        target("v", schedule, x0, eps, t_B), peer.get_velocity(x0, eps, t_B - 1), rtol=0, atol=1e-10
    )


def ddpm_path(peer: Any, denoiser: Denoiser, noise: RowNoise, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    x = noise.draw(START, (6,), DOUBLE)
    for t in peer.timesteps.tolist():
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, t=t, **__: noise.draw(t + 1, (6,), DOUBLE))
        x = peer.step(denoiser.predict(x, torch.full((len(x),), t + 1)), t, x).prev_sample
    return x


@pytest.mark.parametrize("kind", PEER_KINDS)
@pytest.mark.parametrize("beta_schedule", PEER_SCHEDULES)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("clip", [None, 0.8])
def test_ddpm_agrees(
    kind: str, beta_schedule: str, variance: str, clip: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = make_schedule(PEER_SCHEDULES[beta_schedule])
    peer = DDPMScheduler(
        1000, variance_type=variance, prediction_type=kind, clip_sample=clip is not None, clip_sample_range=clip or 1.0
    )
    with_our_tables(peer, schedule)
    times = [1, 2, 3, 50, 120, 300, 600, 900, 999]
    peer.set_timesteps(timesteps=[t - 1 for t in reversed(times)])
    plain = Mixture().denoiser(schedule, PEER_KINDS[kind])
    denoiser, noise = Denoiser(schedule, plain.predict, plain.kind, clip), RowNoise(0, range(4))
    wanted = ddpm_path(peer, denoiser, noise, monkeypatch)
    found = sample(denoiser, Ancestral(float(variance == "fixed_large")), times, noise, (6,), dtype=DOUBLE)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


def test_ddpm_agrees_over_a_thousand_steps_of_its_own_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule, noise = make_schedule("linear"), RowNoise(1, range(4))
    peer = DDPMScheduler(1000, clip_sample=False)
    wanted = ddpm_path(peer, Mixture().denoiser(schedule), noise, monkeypatch)
    found = sample(Mixture().denoiser(schedule), Ancestral(), spaced_times(1000, 1000), noise, (6,), dtype=DOUBLE)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2e-4)  # what float32 tables leave: 1 - alpha-bar cancels


@pytest.mark.parametrize("kind", PEER_KINDS)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("clip", [None, 0.8])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_ddim_agrees(kind: str, eta: float, clip: float | None, spacing: str) -> None:
    schedule = make_schedule("linear")
    peer = DDIMScheduler(
        1000,
        prediction_type=kind,
        clip_sample=clip is not None,
        clip_sample_range=clip or 1.0,
        timestep_spacing=spacing,
    )
    with_our_tables(peer, schedule).set_timesteps(20)
    times = spaced_times(1000, 20, spacing)  # type: ignore[arg-type]
    assert [t + 1 for t in reversed(peer.timesteps.tolist())] == times
    plain = Mixture().denoiser(schedule, PEER_KINDS[kind])
    denoiser, noise = Denoiser(schedule, plain.predict, plain.kind, clip), RowNoise(0, range(4))
    x = noise.draw(START, (6,), DOUBLE)
    for t in peer.timesteps.tolist():
        said, z = denoiser.predict(x, torch.full((4,), t + 1)), noise.draw(t + 1, (6,), DOUBLE)
        x = peer.step(said, t, x, eta=eta, use_clipped_model_output=True, variance_noise=z if eta else None).prev_sample
    found = sample(denoiser, Ddim(eta), times, noise, (6,), dtype=DOUBLE)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-10)
