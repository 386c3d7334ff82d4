"""The variational autoencoder: an encoder that proposes z, a decoder that says what z makes of a row.

q(z|x) = N(mean, diag scale^2), p(z) = N(0, I) (Kingma and Welling 2014). VAE and IWAE(M) are one objective, `log (1/M) sum_i w_i`
(Burda et al. 2016), of which M = 1 is the ELBO.

Letters: N rows, S (in training M) samples of a row, L latent dimensions, D values of a row, P numbers a value.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kxbatch.models.likelihoods import make_likelihood
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_networks import make_decoder, make_encoder

_LOG_SCALES = (-8.0, 4.0)  # of the posterior; outside of them a step of the optimiser went wrong


class Posterior(NamedTuple):
    """q(z|x): mean and logarithm of the standard deviation, both [N, L]."""

    mean: Tensor
    log_scale: Tensor


class Terms(NamedTuple):
    """Parts of the log-weights of a batch.

    Attributes:
        log_likelihood: log p(u|z), nats [N, S].
        kl: log q(z|x) - log p(z) by dimension, nats; its mean over samples estimates the KL divergence [N, S, L].
        z: the samples [N, S, L].
    """

    log_likelihood: Tensor
    kl: Tensor
    z: Tensor

    def log_weights(self, kl_weight: Tensor | float = 1.0) -> Tensor:
        """`log p(u|z) + log p(z) - log q(z|x)` [N, S]; the last two weigh `kl_weight`."""
        return self.log_likelihood - kl_weight * self.kl.sum(2)


class Vae(nn.Module):
    """Encoder, decoder, likelihood."""

    def __init__(self, config: VaeArchitecture) -> None:
        super().__init__()
        self.config = config
        self.likelihood = make_likelihood(
            config.likelihood,
            config.values,
            scale=config.scale,
            size=config.scale_size,
            floor=config.scale_floor,
            levels=config.levels,
        )
        self.encoder = make_encoder(config, 2 * config.latent)
        self.decoder = make_decoder(config, self.likelihood.numbers)
        self._middle = 0.5 if config.discrete else 0.0  # of the values u

    def forward(self, u_ND: Tensor, noise_NSL: Tensor, *, stop_score: bool = False) -> Terms:
        """Terms of the log-weights of samples `z = mean + scale * noise`.

        Args:
            u_ND: values in the units of the model.
            noise_NSL: standard normal.
            stop_score: no gradient through the parameters of q in log q(z|x), only through z (Roeder et al. 2017).
        """
        return self.terms(u_ND, self.encode(u_ND), noise_NSL, stop_score=stop_score)

    def encode(self, u_ND: Tensor) -> Posterior:
        """The proposal of each row."""
        mean_NL, log_scale_NL = self.encoder(2 * (u_ND - self._middle)).float().chunk(2, dim=1)
        return Posterior(mean_NL, log_scale_NL.clamp(*_LOG_SCALES))

    def terms(self, u_ND: Tensor, q: Posterior, noise_NSL: Tensor, *, stop_score: bool = False) -> Terms:
        """As `forward`, from a proposal that is known."""
        scale_NL = q.log_scale.exp()
        z_NSL = q.mean[:, None] + scale_NL[:, None] * noise_NSL
        log_scale_NL, seen_NSL = q.log_scale, noise_NSL
        if stop_score:
            log_scale_NL = log_scale_NL.detach()
            seen_NSL = (z_NSL - q.mean.detach()[:, None]) / scale_NL.detach()[:, None]
        kl_NSL = 0.5 * (z_NSL - seen_NSL) * (z_NSL + seen_NSL) - log_scale_NL[:, None]
        numbers_NSPD = self.decoder(z_NSL.flatten(0, 1)).float()
        numbers_NSPD = numbers_NSPD.view(*z_NSL.shape[:2], *numbers_NSPD.shape[1:])
        return Terms(self.likelihood(u_ND, numbers_NSPD), kl_NSL, z_NSL)


class Objective(NamedTuple):
    """What a batch gives; scalars.

    Attributes:
        loss: minimised; nats a row.
        bound: mean of `log (1/M) sum w`, with the KL at full weight.
        kl: mean KL divergence of q from the prior.
    """

    loss: Tensor
    bound: Tensor
    kl: Tensor


def objective(
    model: nn.Module,
    u_ND: Tensor,
    noise_NML: Tensor,
    *,
    kl_weight: Tensor | float = 1.0,
    free_bits: float = 0.0,
    doubly_reparameterised: bool = False,
) -> Objective:
    """The importance-weighted bound of a batch.

    Args:
        model: a `Vae`, as it is or wrapped.
        u_ND: values in the units of the model.
        noise_NML: standard normal; M = 1 is the VAE, more the IWAE.
        kl_weight: weight of the KL while it warms up (Bowman et al. 2016).
        free_bits: nats of KL a dimension that cost nothing, on average over the batch (Kingma et al. 2016); M = 1 only.
        doubly_reparameterised: gradient of the encoder by Tucker et al. (2019), whose noise does not grow with M.
    """
    terms: Terms = model(u_ND, noise_NML, stop_score=doubly_reparameterised)
    log_w_NM = terms.log_weights(kl_weight)
    bound_N = _log_mean(log_w_NM)
    if doubly_reparameterised:
        share_NM = log_w_NM.detach().softmax(dim=1)
        if terms.z.requires_grad:  # once more for what flows into the encoder: squared weights
            terms.z.register_hook(lambda gradient_NML: gradient_NML * share_NM[..., None])  # type: ignore[no-untyped-call]
        surrogate_N = (share_NM * log_w_NM).sum(1)
        bound_N = bound_N.detach() + surrogate_N - surrogate_N.detach()
    loss = -bound_N.mean()
    if free_bits:
        kl_L = terms.kl.mean((0, 1))
        loss = loss + kl_weight * (free_bits - kl_L).clamp_min(0).sum()
    full = _log_mean(terms.log_weights().detach()).mean()
    return Objective(loss, full, terms.kl.detach().sum(2).mean())


def _log_mean(log_w_NM: Tensor) -> Tensor:
    return torch.logsumexp(log_w_NM, dim=1) - math.log(log_w_NM.shape[1])
