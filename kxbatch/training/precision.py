"""Which arithmetic a training computes in."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from kxbatch.models.device import resolve_precision

Precision = Literal["fp32", "autocast", "bf16"]


def training_precision(precision: str, device: torch.device) -> Precision:
    """`auto` is autocast where the device multiplies bf16 matrices itself, else fp32; the others stay what they are."""
    if precision == "auto":
        return "autocast" if resolve_precision("auto", device.type) == "bf16" else "fp32"
    return "autocast" if precision == "autocast" else "bf16" if precision == "bf16" else "fp32"


def forward_context(precision: Precision, device: torch.device, *, cache: bool = True) -> AbstractContextManager[None]:
    """bf16 arithmetic, unless the precision is fp32; with bf16 weights, too, for it leaves norms and losses in fp32.

    Args:
        precision: as resolved.
        device: where the model computes.
        cache: keep a weight's bf16 copy until the context ends; not where weights are gathered for one layer at a time.
    """
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=cache)
