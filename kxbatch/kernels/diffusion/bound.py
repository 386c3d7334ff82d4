"""How well a denoiser explains data: the variational bound on -log p(x_0), term by term, in bits per value.

    -log p(x_0) <= KL(q(x_T|x_0) || N(0, I)) + sum_t E KL(q(x_s|x_t, x_0) || p(x_s|x_t)) - E log p(x_0|x_1)

(Ho et al. 2020, equation 5), over the times that are stepped through: a sub-sequence is a model of its own, with its own bound.

Letters: B samples, D the values of a sample in whatever shape, S steps that end above time 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion.decoders import LEVELS, Decoder, decoder_for
from kxbatch.kernels.diffusion.denoiser import Denoiser
from kxbatch.kernels.diffusion.noise import RowNoise
from kxbatch.kernels.diffusion.process import noised
from kxbatch.kernels.diffusion.times import time_pairs
from kxbatch.kernels.diffusion.transitions import Rule, Transition


@dataclass(frozen=True)
class Bound:
    """Terms of the bound, float64, in bits per value.

    Attributes:
        prior: [B], what is left of the data at the last time.
        steps: [B, S], earliest step first; a single draw of each expectation.
        decoder: [B], from the first time to the data. Of a density it may be negative.
        times: int64 [S], the later time of each step in `steps`.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor
    times: Tensor

    @property
    def total(self) -> Tensor:
        """Sum of all terms [B]: an upper bound on `-log2 p(x_0) / d` in expectation."""
        return self.prior + self.steps.sum(1) + self.decoder


@torch.no_grad()
def variational_bound(
    denoiser: Denoiser,
    rule: Rule,
    times: Sequence[int],
    x0_BD: Tensor,
    noise: RowNoise,
    *,
    decoder: Decoder,
    decoder_variance: float | None = None,
    levels: int = LEVELS,
) -> Bound:
    """The bound for each row, with one draw of noise per row and time.

    Args:
        denoiser: reads x_t, once for each of the times.
        rule: gives the model's variances.
        times: ascending sub-sequence of 1 to T.
        x0_BD: floating point [B, ...]; its type is that of x_t.
        noise: of the rows.
        decoder: `"levels"` for whole levels in [-1, 1], as 8-bit data are as `level / 127.5 - 1`: the mass of a Gaussian between
            the middles of neighbouring levels, the outermost levels taking the tails (Ho et al. 2020, equation 13). `"density"`
            for vectors: its density.
        decoder_variance: of that Gaussian. By default that of the rule's last step; where this is 0, `B_t^2` of the first time.
        levels: L of `"levels"`: data are `2 level / (L - 1) - 1`.

    Raises:
        ConfigError: the times are no sub-sequence of the schedule's, there is no such decoder, or the rule adds no noise,
            which makes the bound infinite.
        DataError: a value is none of the levels.
    """
    schedule, pairs = denoiser.schedule, time_pairs(times, denoiser.schedule.steps)
    log_likelihood = decoder_for(decoder, x0_BD, levels)
    if decoder_variance is not None and not decoder_variance > 0:
        raise ConfigError(f"decoder_variance is {decoder_variance}: it must be above 0")
    found: list[Tensor] = []
    for t, s in reversed(pairs):
        guess_BD = denoiser(noised(schedule, x0_BD, noise, t), t)[0]
        step = rule.transition(schedule, t, s)
        if s > 0:
            gain = step.on_x0 - step.on_eps * float(schedule.A[t] / schedule.B[t])
            found.append(_step_nats(step, gain, x0_BD.double() - guess_BD.double(), t))
        else:
            variance = decoder_variance or step.variance or float(schedule.B[t]) ** 2
            found.append(-log_likelihood(x0_BD, guess_BD, variance))
    bits = 1 / (x0_BD[0].numel() * math.log(2))
    decoder_B, *steps = (nats_B * bits for nats_B in found)
    prior_B = _prior_nats(float(schedule.log_signal[pairs[0][0]]), x0_BD) * bits
    steps_BS = torch.stack(steps, dim=1) if steps else prior_B.new_zeros(len(x0_BD), 0)
    return Bound(prior_B, steps_BS, decoder_B, torch.tensor(sorted(times)[1:]))


def _step_nats(step: Transition, gain: float, error_BD: Tensor, t: int) -> Tensor:
    """KL of two Gaussians whose means differ by `gain` times the error in x_0, nats [B]."""
    if not step.known > 0:
        raise ConfigError(
            f"the step from time {t} adds no noise, so the bound is infinite: take eta above 0, or another rule"
        )
    ratio = step.known / step.variance
    spread = 0.5 * (ratio - 1 - math.log(ratio))
    return error_BD.flatten(1).square().sum(1) * (gain**2 / (2 * step.variance)) + spread * error_BD[0].numel()


def _prior_nats(log_signal: float, x0_BD: Tensor) -> Tensor:
    """`KL(N(A x_0, B^2 I) || N(0, I))`, nats [B]."""
    signal2, noise2 = math.exp(log_signal), -math.expm1(log_signal)
    return 0.5 * (signal2 * x0_BD.double().flatten(1).square() + noise2 - 1 - math.log(noise2)).sum(1)
