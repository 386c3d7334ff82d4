"""Linear layers whose weights are laid out for oneDNN once, not in every call.

Small batches that stay in cache are the fastest on a CPU, but then the usual layer spends a good part of its time on
bringing its weights into the layout of the matrix kernel, and in fp32 it goes to MKL, which is slow on some CPUs.
"""

from __future__ import annotations

import platform

import torch
from torch import Tensor, nn

TYPICAL_ROWS = 1024  # tokens in a batch; a hint for the layout, any number works


class PackedLinear(nn.Module):
    """`nn.Linear` for inference on a CPU, from one."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), TYPICAL_ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """`x @ weight.T + bias`; x [..., in_features]."""
        packed: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
        return packed


def can_pack(model: nn.Module) -> bool:
    """Whether this torch has the operators, and the model only ever calls its linear layers.

    Code that comes with a model may do anything with a layer's weight; the models of transformers do not.
    """
    known = type(model).__module__.startswith("transformers.") and platform.machine() in ("x86_64", "AMD64")
    return known and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def pack_linears(model: nn.Module) -> None:
    """Replace every plain `nn.Linear` in a model, in place."""
    packed: dict[nn.Module, PackedLinear] = {}
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                if child not in packed:
                    packed[child] = PackedLinear(child)
                setattr(parent, name, packed[child])
