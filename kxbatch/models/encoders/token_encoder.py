"""What encoders over tokens share: texts tokenised, cut into batches of like length, computed, pooled in fp32."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.models.device import CPU_TOKENS, GPU_TOKENS, run_batches
from kxbatch.models.encoders.batches import cut_batches
from kxbatch.models.encoders.protocol import Encoded, EncoderSettings, finished
from kxbatch.models.encoders.tokens import TokenizedTexts, Tokens


class TokenEncoder(ABC):
    """An `Encoder` whose subclass makes vectors of a padded batch of token ids.

    Attributes:
        dim: length of a vector.
        device: where it computes.
        precision: `fp32` or `bf16`; pooling and what follows are fp32 in any case.
        max_length: most tokens of a text that are read.
    """

    dim: int

    def __init__(self, tokens: Tokens, settings: EncoderSettings) -> None:
        self._tokens, self._threads, self._normalize = tokens, settings.threads, settings.normalize
        self.device, self.precision = settings.device, settings.precision
        self.max_length = tokens.max_length
        self._token_budget = settings.token_budget or (CPU_TOKENS if self.device == "cpu" else GPU_TOKENS)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of texts; see `Encoder`."""
        tokenized = self._tokens.tokenize(texts)
        vectors = np.empty((len(texts), self.dim), np.float32)
        batches = cut_batches(tokenized.lengths, self._token_budget)

        def work(i: int) -> None:
            vectors[batches[i]] = self._vectors(tokenized, batches[i])

        run_batches(work, len(batches), self._threads, self.device)
        return finished(vectors, tokenized.truncated, normalize=self._normalize)

    def _vectors(self, tokenized: TokenizedTexts, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        ids_BL, mask_BL = (torch.from_numpy(a).to(self.device) for a in tokenized.padded(rows, self._tokens.pad_id))
        with torch.inference_mode():
            vectors: npt.NDArray[np.float32] = self._pooled(ids_BL, mask_BL).cpu().numpy()
        return vectors

    @abstractmethod
    def _pooled(self, ids_BL: Tensor, mask_BL: Tensor) -> Tensor:
        """Vectors fp32 [B, D] of token ids int64 [B, L]; the mask, int64 [B, L], is 1 for tokens and 0 for padding."""
