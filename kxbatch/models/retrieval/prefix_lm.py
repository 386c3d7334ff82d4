"""A language model that is good at taking names over from a question: each token's vector knows the tokens before it.

To copy, a layer must find where the token said last stands in the question, and look at what comes after it. That takes keys
which know what stood before them, and two layers to learn it: "induction heads", Olsson et al. (2022), who show that keys
"smeared" over the token before make them form at once. Here the smear is at the input, over `shifts` tokens:

    x_t = e_t + sum_k W_k e_(t-k),    k = 1 ... shifts

Letters: B texts, L tokens, N windows, K tokens of a window, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.text_encoder_config import TextEncoderConfig

SHIFT_STD = 0.3  # so that a token's own vector prevails; as large as it, rare characters are learned later


class ShiftedEncoder(TextEncoder):
    """A text encoder whose input vectors are joined with those of the tokens before."""

    def __init__(self, config: TextEncoderConfig, shifts: int) -> None:
        super().__init__(config)
        matrices = [nn.Linear(config.dim, config.dim, bias=False) for _ in range(shifts)]
        for matrix in matrices:
            nn.init.normal_(matrix.weight, std=SHIFT_STD * config.dim**-0.5)
        self.shifts = nn.ModuleList(matrices)

    @property
    def window(self) -> int:
        """K."""
        return len(self.shifts) + 1

    def embed_tokens(self, ids_BL: Tensor) -> Tensor:
        """[B, L, D]; padding is on the right."""
        e_BLD: Tensor = self.embedding(ids_BL)
        x_BLD = e_BLD
        for back, shift in enumerate(self.shifts, 1):
            x_BLD = x_BLD + F.pad(shift(e_BLD), (0, 0, back, 0))[:, : ids_BL.shape[1]]
        return x_BLD

    def embed_last(self, ids_NK: Tensor) -> Tensor:
        """[N, D], of the last token of each window; -1 stands before the first token of a text."""
        e_NKD = self.embedding(ids_NK.clamp(min=0)) * (ids_NK >= 0).unsqueeze(-1)
        x_ND: Tensor = e_NKD[:, -1]
        for back, shift in enumerate(self.shifts, 1):
            x_ND = x_ND + shift(e_NKD[:, -1 - back])
        return x_ND


def prefix_lm(config: TextEncoderConfig, shifts: int) -> MaskedLm:
    """The model with new weights; what makes it a prefix language model is `Mask.prefix`."""
    return MaskedLm(config, ShiftedEncoder(config, shifts))


def windows(ids_BL: Tensor, ends_B: Tensor, size: int) -> Tensor:
    """The last `size` of the first `ends_B[b]` tokens of each text, int64 [B, size], -1 before its start."""
    place_BK = ends_B.unsqueeze(1) + torch.arange(-size, 0, device=ends_B.device)
    return torch.where(place_BK >= 0, ids_BL.gather(1, place_BK.clamp(min=0)), -1)
