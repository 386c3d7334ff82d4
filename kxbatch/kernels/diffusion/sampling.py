"""From noise to data along random steps, and how much noise a denoiser sees.

Letters: B samples, D the values of a sample in whatever shape, S times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kxbatch.kernels.diffusion.denoiser import Denoiser
from kxbatch.kernels.diffusion.noise import START, RowNoise
from kxbatch.kernels.diffusion.process import noised
from kxbatch.kernels.diffusion.times import time_pairs
from kxbatch.kernels.diffusion.transitions import Rule


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    rule: Rule,
    times: Sequence[int],
    noise: RowNoise,
    shape: Sequence[int],
    *,
    start_BD: Tensor | None = None,
    last_noise: bool = False,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Samples, each a function of seed, its own key and the settings.

    All arithmetic here is value by value, so a sample comes out bit for bit the same in any batch, if the denoiser's does. Most
    networks round otherwise in another batch (torch's sigmoid and softmax do): for them the batches themselves must stay the same.

    Args:
        denoiser: reads x_t; it also holds the schedule and whether x_0 is clipped.
        rule: how to step back.
        times: ascending sub-sequence of 1 to T (`spaced_times`).
        noise: of the samples.
        shape: of one sample.
        start_BD: x_T [B, *shape] in place of drawn noise; it brings its own type and device.
        last_noise: add noise in the last step too, from the first time to the data. Off, the mean is returned, as is usual;
            on, the samples have the full variance of the rule.
        dtype: of x_t.
        device: of x_t.

    Returns:
        x_0 [B, *shape].

    Raises:
        ConfigError: the times are no sub-sequence of the schedule's.
    """
    pairs = time_pairs(times, denoiser.schedule.steps)
    x_BD = noise.draw(START, shape, dtype, device) if start_BD is None else start_BD
    for t, s in pairs:
        step = rule.transition(denoiser.schedule, t, s)
        x0_BD, eps_BD = denoiser(x_BD, t)
        x_BD = step.on_x0 * x0_BD + step.on_eps * eps_BD
        if step.variance > 0 and (s > 0 or last_noise):
            x_BD = x_BD + math.sqrt(step.variance) * noise.draw(t, shape, x_BD.dtype, x_BD.device)
    return x_BD


@torch.no_grad()
def noise_energy(denoiser: Denoiser, x0_BD: Tensor, noise: RowNoise, times: Sequence[int]) -> Tensor:
    """`|eps|^2 / d` of what the denoiser says of noised data; the mean over many rows is what `AnalyticDpm` wants.

    Args:
        denoiser: as it will sample, but without clipping.
        x0_BD: data [B, ...] of the kind it was trained with.
        noise: of the rows.
        times: where it is measured, 1 to T.

    Returns:
        float64 [B, S].
    """
    found = []
    for t in times:
        eps_BD = denoiser(noised(denoiser.schedule, x0_BD, noise, t), t)[1]
        found.append(eps_BD.double().square().flatten(1).mean(1))
    return torch.stack(found, dim=1)
