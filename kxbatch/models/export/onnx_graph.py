"""A trained text encoder as an ONNX graph, and its check by onnxruntime.

Shapes: B texts, L tokens, D width.
"""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import onnxruntime
import torch
from torch import Tensor, nn

from kxbatch.models.export.hf import write_tokenizer
from kxbatch.models.export.parity import Answer, Parity, answers, compare
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import TextEncoder, embed
from kxbatch.models.trained_text import CONFIG, TrainedText, load_weights

GRAPH = "model.onnx"
OPSET = 18
TOLERANCE = 1e-4  # other kernels, other orders of sums, through all layers
INPUTS, OUTPUTS = ("input_ids", "attention_mask"), ("last_hidden_state", "sentence_embedding")
_ONE_FILE = 1_900_000_000  # bytes of weights; a protobuf message ends at 2 GiB


class _Graph(nn.Module):
    """What is exported: both inputs int64 [B, L]; states [B, L, D] and vectors [B, D]."""

    def __init__(self, encoder: TextEncoder, pooling: str) -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        mask = Mask.padding(attention_mask.bool())
        first_BLD, last_BLD = self.encoder.states(input_ids, mask)
        return last_BLD, embed(last_BLD, mask, self.pooling, first_BLD)


def write_onnx(source: Path, target: Path) -> None:
    """Fill a folder with `model.onnx`, the tokenizer and `config.json`.

    Args:
        source: a trained text encoder.
        target: an empty folder.
    """
    trained = TrainedText.read(source)
    model = MaskedLm(trained.encoder)
    load_weights(model, source)
    graph = _Graph(model.encoder, trained.pooling).eval()
    sizes = {0: torch.export.Dim("texts"), 1: torch.export.Dim("tokens")}
    ids_BL, mask_BL = torch.zeros(2, 12, dtype=torch.int64), torch.ones(2, 12, dtype=torch.int64)
    with _quiet(), torch.inference_mode():
        torch.onnx.export(
            graph,
            (ids_BL, mask_BL),
            target / GRAPH,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=(sizes, sizes),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
            external_data=sum(weight.nbytes for weight in graph.parameters()) > _ONE_FILE,
        )
    shutil.copyfile(source / CONFIG, target / CONFIG)
    write_tokenizer(source, target, trained)


def check_onnx(source: Path, target: Path) -> Parity:
    """Run the graph by onnxruntime on the CPU, and compare.

    Raises:
        FatalError: it gives other numbers.
    """
    session = onnxruntime.InferenceSession(target / GRAPH, providers=["CPUExecutionProvider"])

    def run(answer: Answer) -> Answer:
        states_BLD, vectors_BD = session.run(OUTPUTS, {"input_ids": answer.ids, "attention_mask": answer.mask})
        return replace(answer, numbers={"states": states_BLD, "vectors": vectors_BD})

    expected = answers(source)
    return compare(expected, [run(answer) for answer in expected], TOLERANCE)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own insides."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
