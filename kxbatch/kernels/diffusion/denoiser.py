"""A network seen from the sampler: what it says of x_t, turned into data and noise.

Letters: B samples, D the values of a sample in whatever shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kxbatch.kernels.diffusion.predictions import Prediction, x0_and_eps
from kxbatch.kernels.diffusion.schedule import Schedule

Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A prediction and how to read it.

    Attributes:
        schedule: the one it was trained with.
        predict: `(x_BD, t_B) -> prediction`, x_t [B, ...] and int64 [B] on its device; times go from 1 to T.
        kind: what it predicts.
        clip: x_0 is kept within [-clip, clip], and the noise made to agree with it; None leaves it as it is.
    """

    schedule: Schedule
    predict: Predict
    kind: Prediction = "eps"
    clip: float | None = None

    def __call__(self, x_BD: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """x_0 and eps that the denoiser sees in x_t, in the type of `x_BD`, with `A_t x_0 + B_t eps = x_t`.

        Args:
            x_BD: [B, ...], at time t.
            t: 1 to T, the same for all.
        """
        signal, noise = float(self.schedule.A[t]), float(self.schedule.B[t])
        t_B = torch.full((len(x_BD),), t, dtype=torch.int64, device=x_BD.device)
        x0_BD, eps_BD = x0_and_eps(self.kind, self.predict(x_BD, t_B).to(x_BD.dtype), x_BD, signal, noise)
        if self.clip is None:
            return x0_BD, eps_BD
        x0_BD = x0_BD.clamp(-self.clip, self.clip)
        return x0_BD, (x_BD - signal * x0_BD) / noise


def guide(conditional_BD: Tensor, unconditional_BD: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance: `u + scale (c - u)` (Ho and Salimans 2022, whose w is `scale - 1`).

    The weights sum to 1, so it is the same for eps, x0 and v.

    Args:
        conditional_BD: prediction that knows the condition, [B, ...].
        unconditional_BD: prediction of the same kind from the same x_t that does not.
        scale: 0 leaves the condition out, 1 is plain conditional sampling, more follows the condition harder.
    """
    return torch.lerp(unconditional_BD, conditional_BD, scale)
