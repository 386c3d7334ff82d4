"""How well masked tokens are guessed in sequences of a length the model was or was not trained at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kxbatch.models.sequences import Sequences

TOKENS_AT_ONCE = 8192  # of a pass; a longer sequence goes alone

Guesses = Callable[[nn.Module, dict[str, Tensor]], tuple[Tensor, Tensor]]


def evaluate(model: nn.Module, sequences: Sequences | None, length: int, guesses: Guesses) -> dict[str, Any]:
    """Accuracy and cross-entropy over whole sequences; a shorter one at the end is left out.

    Args:
        model: a masked language model, in inference mode.
        sequences: masked, all of one length but the last; None for none.
        length: this length.
        guesses: cross-entropy and hits of a batch.

    Returns:
        `length`, `sequences`, `predicted` tokens, `accuracy` and `cross_entropy` in nats; None for the two without a token.
    """
    nats, right, predicted, whole = 0.0, 0, 0, 0
    if sequences is not None:
        whole = int((sequences.lengths == length).sum())
        device = next(model.parameters()).device
        for batch in _batches(sequences, whole, length, device):
            with torch.inference_mode():
                nats_M, right_M = guesses(model, batch)
            nats, right = nats + float(nats_M.sum()), right + int(right_M.sum())
            predicted += len(nats_M)
    return {
        "length": length,
        "sequences": whole,
        "predicted": predicted,
        "accuracy": right / predicted if predicted else None,
        "cross_entropy": nats / predicted if predicted else None,
    }


def _batches(sequences: Sequences, whole: int, length: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    step = max(1, TOKENS_AT_ONCE // length)
    for start in range(0, whole, step):
        end = min(whole, start + step)
        first, last = np.searchsorted(sequences.positions, [start * length, end * length])
        arrays = {
            "ids": sequences.ids[start:end],
            "positions": sequences.positions[first:last] - start * length,
            "labels": sequences.labels[first:last],
        }
        yield {name: torch.from_numpy(array).to(device) for name, array in arrays.items()}
