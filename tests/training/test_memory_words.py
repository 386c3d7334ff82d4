"""Memory that runs out says what to try; other errors stay what they are."""

from __future__ import annotations

import pytest
import torch

from kxbatch.errors import FatalError
from kxbatch.spec.training import DeepSpeedConfig, TrainingConfig
from kxbatch.training.memory import explained


def test_memory_that_runs_out_says_what_to_try() -> None:
    config = TrainingConfig(batch_rows=64, micro_rows=16, workers=2, deepspeed=DeepSpeedConfig(zero=1))
    with pytest.raises(FatalError) as caught, explained(config):
        torch.empty(2**50)
    for words in ("micro_rows = 8 instead of 16", "the same 64 rows", "checkpointing = true", "zero = 2 instead of 1"):
        assert words in str(caught.value)


def test_advice_is_what_is_left_to_try() -> None:
    config = TrainingConfig(batch_rows=1, deepspeed=DeepSpeedConfig(offload="all", zero=3))
    with pytest.raises(FatalError) as caught, explained(config):
        torch.empty(2**50)
    assert "micro_rows" not in str(caught.value)
    assert "offload" not in str(caught.value)


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explained(TrainingConfig()):
        torch.zeros(2, 3) @ torch.zeros(2, 3)
