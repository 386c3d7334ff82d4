"""What GAU layers remember of a prefix-LM while it decodes: the source once a question, the target once a hypothesis.

Letters: Q questions, W hypotheses of each, L source tokens, T target tokens, S width of a query, E width of a value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kxbatch.models.attention import explicit
from kxbatch.models.normalizers import weights
from kxbatch.models.text_encoder_config import Normalizer

ROOM = 8  # target tokens by which a cache grows


@dataclass(eq=False)
class LayerCache:
    """Of one layer.

    Attributes:
        normalizer: its name.
        source_keys: [Q, L, S], turned.
        source_values: [Q, L, E].
        keys: [Q, W, T + room, S], turned.
        values: [Q, W, T + room, E].
        size: T.
    """

    normalizer: Normalizer
    source_keys: Tensor
    source_values: Tensor
    keys: Tensor
    values: Tensor
    size: int = 0

    @classmethod
    def of_source(
        cls, normalizer: Normalizer, q_QLS: Tensor, k_QLS: Tensor, v_QLE: Tensor, bias: Tensor | None
    ) -> tuple[LayerCache, Tensor]:
        """Reads sources: an empty target each, and their own mixture [Q, L, E]."""
        keys, values = (x.new_empty(len(x), 1, 0, x.shape[2]) for x in (k_QLS, v_QLE))
        return cls(normalizer, k_QLS, v_QLE, keys, values), explicit(q_QLS, k_QLS, v_QLE, bias, normalizer)

    def mix(self, q_QWS: Tensor, k_QWS: Tensor, v_QWE: Tensor, bias_Q1L: Tensor) -> Tensor:
        """Takes a token of each hypothesis in, and gives what it sees of the source and of its target, [Q, W, E]."""
        if self.size == self.keys.shape[2]:
            self.keys, self.values = (F.pad(x, (0, 0, 0, ROOM)) for x in (self.keys, self.values))
        self.keys[:, :, self.size], self.values[:, :, self.size] = k_QWS, v_QWE
        self.size += 1
        k_QWTS, v_QWTE = self.keys[:, :, : self.size], self.values[:, :, : self.size]
        of_source = q_QWS @ self.source_keys.transpose(1, 2) + bias_Q1L
        of_target = (k_QWTS @ q_QWS.unsqueeze(3)).squeeze(3)
        a_QWN = weights(self.normalizer, torch.cat([of_source, of_target], dim=2))
        a_source, a_target = a_QWN[..., : -self.size], a_QWN[..., -self.size :]
        mixed_QWE: Tensor = a_source @ self.source_values + (a_target.unsqueeze(2) @ v_QWTE).squeeze(2)
        return mixed_QWE

    def select_questions(self, questions: Tensor) -> None:
        """Keeps some sources, int64 [Q']."""
        self.source_keys = self.source_keys.index_select(0, questions)
        self.source_values = self.source_values.index_select(0, questions)

    def select_rows(self, parents: Tensor) -> None:
        """Goes on from some rows, int64 [Q', W']: places in [Q, W] laid flat."""
        self.keys, self.values = (
            x.flatten(0, 1).index_select(0, parents.flatten()).view(*parents.shape, *x.shape[2:])
            for x in (self.keys, self.values)
        )
