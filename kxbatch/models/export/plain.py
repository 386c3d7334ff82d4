"""A trained text encoder alone: weights, configuration and tokenizer, without card and history. kxbatch embeds with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save

from kxbatch.models.encoders.folders import TRAINED_ARCHITECTURE
from kxbatch.models.export.hf import write_tokenizer
from kxbatch.models.export.parity import Parity, answers, compare
from kxbatch.models.trained_text import CONFIG, WEIGHTS, TrainedText

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# A number of a state is about 1; rounding the weights to 2^-11 or 2^-8 was seen to move it by up to 0.002 or 0.016.
_TOLERANCES = {"fp32": 0.0, "fp16": 0.02, "bf16": 0.2}


def write_plain(source: Path, target: Path, storage: str) -> None:
    """Fill a folder.

    Args:
        source: a trained text encoder.
        target: an empty folder.
        storage: of the weights on the disk; whoever loads them computes in what it likes.
    """
    weights = {name: weight.to(_DTYPES[storage]) for name, weight in load_file(source / WEIGHTS).items()}
    facts = {"format": "pt", "architecture": TRAINED_ARCHITECTURE, "storage": storage}
    (target / WEIGHTS).write_bytes(save(weights, metadata=facts))
    shutil.copyfile(source / CONFIG, target / CONFIG)
    write_tokenizer(source, target, TrainedText.read(source))


def check_plain(source: Path, target: Path, storage: str) -> Parity:
    """Load the folder as kxbatch does, and compare.

    Raises:
        FatalError: it gives other numbers than rounding explains.
    """
    return compare(answers(source), answers(target), _TOLERANCES[storage])
