"""How an encoder stands before its first step: the size of its branches, and how far one step of full rate throws it.

Both decide whether a Post-Norm stack trains without warm-up: Su, "Does GAU still need warm-up?" (2022).
Shapes: B texts, L tokens, D width of the stream, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.attention import FeedForward, MultiHeadAttention
from kxbatch.models.gau import GatedAttentionUnit
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.text_encoder_config import TextEncoderConfig

STEP = 1e-3
TARGETS = 2022  # a seed of its own, so that targets are not the tokens by accident
BRANCHES = (GatedAttentionUnit, MultiHeadAttention, FeedForward)


def init_report(
    config: TextEncoderConfig, ids_BL: Tensor, mask: Mask | None = None, step: float = STEP
) -> dict[str, Any]:
    """The two measures of a fresh encoder; weights come from torch's global generator.

    Args:
        config: of the encoder.
        ids_BL: token ids to measure with, int64 [B, L].
        mask: of them; None where there is no padding.
        step: rate of the step.

    Returns:
        JSON values: `layers`; `branch_ratio`, rms(F(x)) / rms(x) of each branch from the first to the last; `step`; and
        `one_step_change`, see there.
    """
    mask = Mask.full(ids_BL.shape[0], ids_BL.shape[1], ids_BL.device) if mask is None else mask
    model = MaskedLm(config).to(ids_BL.device).eval()
    return {
        "layers": config.layers,
        "branch_ratio": branch_ratios(model.encoder, ids_BL, mask),
        "step": step,
        "one_step_change": one_step_change(model, ids_BL, mask, step),
    }


@torch.no_grad()
def branch_ratios(encoder: TextEncoder, ids_BL: Tensor, mask: Mask) -> list[float]:
    """rms(F(x)) / rms(x) of each branch over valid tokens, x being what the branch is given."""
    ratios: list[float] = []

    def measure(_: nn.Module, given: tuple[Any, ...], made_BLD: Tensor) -> None:
        ratios.append(float(_rms(made_BLD[mask.valid]) / _rms(given[0][mask.valid])))

    branches = [module for module in encoder.modules() if isinstance(module, BRANCHES)]
    handles = [branch.register_forward_hook(measure) for branch in branches]
    try:
        encoder(ids_BL, mask)
    finally:
        for handle in handles:
            handle.remove()
    return ratios


def one_step_change(model: MaskedLm, ids_BL: Tensor, mask: Mask, step: float = STEP) -> float:
    """Relative change of the last states after one step on the layers' weights; the model is changed by it.

    The step is `step` times the sign of the gradient, Adam's first; the loss is the cross-entropy of each valid token
    with a random one. The embedding stays as it is: what it would add says nothing about depth.
    """
    valid_BL = mask.valid
    positions_M = valid_BL.flatten().nonzero().squeeze(1)
    layers = list(model.encoder.layers.parameters())
    logits_MV = model(ids_BL, mask, positions_M).float()
    targets_M = torch.randint(logits_MV.shape[1], positions_M.shape, generator=torch.Generator().manual_seed(TARGETS))
    loss = F.cross_entropy(logits_MV, targets_M.to(ids_BL.device))
    grads = torch.autograd.grad(loss, layers)
    with torch.no_grad():
        before = model.encoder(ids_BL, mask)[valid_BL].float()
        for weight, grad in zip(layers, grads, strict=True):
            weight.sub_(grad.sign(), alpha=step)
        after = model.encoder(ids_BL, mask)[valid_BL].float()
    return float((after - before).norm() / before.norm())


def _rms(x: Tensor) -> Tensor:
    return x.float().square().mean().sqrt()
