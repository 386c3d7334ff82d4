"""An encoder and a head over its states: what is trained, and what finds spans.

Shapes: B sequences, L tokens, D width, T types, S spans.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kxbatch.models.extraction.crf import Crf
from kxbatch.models.extraction.decoding import decode
from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, GlobalPointer
from kxbatch.models.extraction.span_losses import factorised_loss, sparse_loss, symmetric_divergence
from kxbatch.models.extraction.token_encoder import TokenEncoder
from kxbatch.models.extraction.token_spans import TokenSpans

HeadKind = Literal["efficient-globalpointer", "globalpointer", "crf"]


@dataclass(frozen=True)
class HeadConfig:
    """A head.

    Attributes:
        kind: which.
        types: T.
        head_size: width of queries and keys; of no meaning for a CRF.
        rope: rotary positions in the scores; of no meaning for a CRF.
        bias: projections with biases.
    """

    kind: HeadKind
    types: int
    head_size: int
    rope: bool
    bias: bool

    def to_json(self) -> dict[str, Any]:
        """Its fields."""
        return asdict(self)

    def head(self, dim: int) -> Crf | GlobalPointer | EfficientGlobalPointer:
        """With new weights, over states of a width."""
        if self.kind == "crf":
            return Crf(dim, self.types, bias=self.bias)
        kind = GlobalPointer if self.kind == "globalpointer" else EfficientGlobalPointer
        return kind(dim, self.types, self.head_size, rope=self.rope, bias=self.bias)


class Extractor(nn.Module):
    """An encoder and a head."""

    def __init__(self, encoder: TokenEncoder, config: HeadConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = config.head(encoder.dim)
        self.config = config

    def forward(self, ids_BL: Tensor, valid_BL: Tensor, inner_BL: Tensor, gold: Tensor, passes: int = 1) -> Tensor:
        """The loss of a batch; all of it in one call, so that strategies which share parameters see every use of them.

        Args:
            ids_BL: tokens, int64.
            valid_BL: what is no padding, bool.
            inner_BL: where spans may begin and end, bool.
            gold: gold spans, int64 [S, 4] of row, type, start, end (exclusive); for a CRF tags, int64 [B, L].
            passes: 2 for R-Drop: the second half of the rows are the first once more.

        Returns:
            A scalar; with two passes two, the loss and the divergence of the passes.
        """
        states_BLD: Tensor = self.encoder(ids_BL, valid_BL)
        if isinstance(self.head, Crf):
            return self.head.loss(states_BLD, inner_BL, gold)
        if passes == 1 and isinstance(self.head, EfficientGlobalPointer):
            return factorised_loss(self.head.parts(states_BLD), inner_BL, gold)
        scores_BTLL: Tensor = self.head(states_BLD, inner_BL)
        loss = sparse_loss(scores_BTLL, gold)
        if passes == 1:
            return loss
        return torch.stack([loss, symmetric_divergence(*scores_BTLL.chunk(2))])

    @torch.inference_mode()
    def find(
        self, ids_BL: Tensor, valid_BL: Tensor, inner_BL: Tensor, threshold: float | None, max_width: int | None
    ) -> TokenSpans:
        """Spans that score above a threshold, on the tokens of the sequences, special ones counted.

        Args:
            ids_BL: tokens, int64.
            valid_BL: what is no padding, bool.
            inner_BL: where spans may begin and end, bool.
            threshold: log odds. None: 0, and for a CRF all that its best sequence of tags says, of whatever posterior
                probability.
            max_width: tokens of the longest span; None: any.
        """
        states_BLD = self.encoder(ids_BL, valid_BL)
        if isinstance(self.head, Crf):
            found = self.head.decode(states_BLD, inner_BL)
            wide = found.ends - found.starts > (max_width or ids_BL.shape[1])
            return found.take(~wide if threshold is None else (found.scores > threshold) & ~wide)
        return decode(self.head, states_BLD, inner_BL, threshold or 0.0, max_width)
