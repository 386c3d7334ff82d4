"""Out of memory, in words that help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from kxbatch.errors import FatalError
from kxbatch.spec.training import TrainingConfig


@contextmanager
def explained(config: TrainingConfig) -> Iterator[None]:
    """Within it, memory that runs out becomes an error that says what to try.

    Raises:
        FatalError: memory ran out.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _is_memory(error):
            raise
        raise FatalError(f"out of memory ({str(error).splitlines()[0][:200]}); {_advice(config)}") from error


def _is_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "alloc" in str(error).lower()


def _advice(config: TrainingConfig) -> str:
    rows, zero = config.rows_at_once, config.deepspeed.zero
    tries = ["checkpointing = true in the model"]
    if config.workers > 1 and zero < 3:
        tries.append(f"training.deepspeed.zero = {zero + 1} instead of {zero}")
    if config.deepspeed.offload == "none":
        tries.append("training.deepspeed.offload = 'optimizer' on a GPU")
    words = f"try, in this order: {'; '.join(tries)}; with these the same training goes on from its newest state"
    if rows > 1:
        words += (
            f". Or training.micro_rows = {max(1, rows // 2)} instead of {rows}, which accumulates to the same "
            f"{config.batch_rows} rows a step, but begins anew"
        )
    return words
