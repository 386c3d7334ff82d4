"""What a denoiser is trained on: the weighted squared error of its prediction, summed over the values of a sample.

    L = E_(x_0, t, eps) w_t |target - f(A_t x_0 + B_t eps, t)|^2,    t uniform on 1 ... T

(Ho et al. 2020, equation 14). A sum and not a mean, so that small gradients do not vanish in half precision.

Letters: B samples, D values of one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from kxbatch.kernels.diffusion import Prediction, Schedule, Weighting, at, loss_weights, q_sample, target
from kxbatch.models.diffusion.networks import Network


class Losses(NamedTuple):
    """Means over the samples of a batch.

    Attributes:
        loss: what is minimised, scalar.
        noise_error: `|eps - eps'|^2 / D`, without a gradient: the same measure whatever is predicted and however it is weighed.
            1 is what saying nothing gets where eps is predicted.
    """

    loss: Tensor
    noise_error: Tensor


@dataclass(frozen=True)
class Objective:
    """A process, what is predicted, and how errors are weighed.

    Attributes:
        schedule: of the process.
        prediction: `"eps"`, `"x0"` or `"v"`.
        weighting: see `kernels.diffusion.loss_weights`.
        gamma: of `min-snr`.
    """

    schedule: Schedule
    prediction: Prediction
    weighting: Weighting = "simple"
    gamma: float = 5.0

    def __call__(
        self, network: Network, x0_BD: Tensor, eps_BD: Tensor, t_B: Tensor, class_B: Tensor | None = None
    ) -> Losses:
        """Loss of a batch.

        Args:
            network: the denoiser.
            x0_BD: data in the units of the model, float32 [B, D].
            eps_BD: standard normal, the same shape.
            t_B: int64 [B], 1 to T.
            class_B: int64 [B]; None for a model without classes.
        """
        said_BD = network(q_sample(self.schedule, x0_BD, eps_BD, t_B), t_B, class_B).float()
        wanted_BD = target(self.prediction, self.schedule, x0_BD, eps_BD, t_B)
        error_B = (said_BD - wanted_BD).square().sum(1)
        weights = loss_weights(self.weighting, self.prediction, self.schedule, self.gamma)
        as_noise = loss_weights("snr", self.prediction, self.schedule)
        noise_error = (at(as_noise, t_B, error_B) * error_B.detach()).mean() / x0_BD.shape[1]
        return Losses((at(weights, t_B, error_B) * error_B).mean(), noise_error)
