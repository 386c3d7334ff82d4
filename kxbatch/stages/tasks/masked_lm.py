"""Training on masked words: texts to sequences, the loss, and the folder an `embed` stage reads.

Shapes: B sequences, L tokens, M tokens to be guessed, V vocabulary.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import TRAINED_ARCHITECTURE
from kxbatch.models.encoders.tokens import set_tokenizer_threads
from kxbatch.models.init_report import init_report
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masking import choose, replace
from kxbatch.models.masks import Mask
from kxbatch.models.segmenter import jieba_segmenter
from kxbatch.models.sequences import Frame, Sequences, joined, one_a_row
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.tokenization import FRAME, from_columns, load_tokenizer, to_columns
from kxbatch.models.trained_text import CONFIG, TOKENIZER, WEIGHTS, TrainedText, load_weights
from kxbatch.stages.base import Artifact, Context, trained_path
from kxbatch.stages.masked_lm import MaskedLmConfig
from kxbatch.stages.task import KEY, Batch, Loss
from kxbatch.stages.tasks.length_evaluation import evaluate

EVALUATION_DRAW = -1
REPORTED_SEQUENCES = 8


class MaskedLmTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, config: MaskedLmConfig, column: str, context: Context) -> None:
        self._config, self._column, self._context = config, column, context
        set_tokenizer_threads(context.threads)
        self._tokenizer = load_tokenizer(trained_path(config.tokenizer, context), offline=config.offline)
        special = self._tokenizer.special
        self._frame = Frame(special["pad"], special["cls"], special["sep"])
        self._ordinary = self._tokenizer.ordinary
        self._segmenter = jieba_segmenter() if config.segmenter == "jieba" else None
        self._encoder = config.model.architecture(self._tokenizer.vocabulary, special["pad"])
        self._trained = TrainedText(_lasting(self._encoder), config.max_length, config.pooling, special)
        self._initial = None if config.initialize is None else Path(trained_path(config.initialize, context))
        if self._initial is not None:
            self._check_initial(self._initial)

    def model(self) -> nn.Module:
        """New weights, or those to start from."""
        model = MaskedLm(self._encoder)
        if self._initial is not None:
            load_weights(model, self._initial)
        return model

    def encode(self, table: pa.Table) -> pa.Table:
        """Columns `tokens` and `words`, without special tokens; cut to `max_length` unless texts are joined."""
        texts = table.column(self._column).cast(pa.string()).to_pylist()
        limit = None if self._config.pack else self._config.max_length - FRAME
        rows, _ = self._tokenizer.tokenize(texts, limit, self._segmenter)
        return pa.table(to_columns(rows))

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `ids` [B, L], `positions` [M], `labels` [M], and `valid` [B, L] where anything is padding."""
        made = self._sequences(rows, draw, self._config.max_length if self._config.pack else None)
        tensors: dict[str, npt.NDArray[Any]]
        tensors = {"ids": made.ids, "positions": made.positions, "labels": made.labels}
        tokens = int(made.lengths.sum())
        if tokens < made.ids.size:
            tensors["valid"] = np.arange(made.ids.shape[1]) < made.lengths[:, None]
        as_tensors = {name: torch.from_numpy(array) for name, array in tensors.items()}
        return Batch(as_tensors, len(rows), tokens, len(made.labels), made.ids.size - tokens)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """Cross-entropy in nats, and accuracy, at the tokens to be guessed."""
        nats_M, right_M = guesses(model, batch)
        asked = max(1, len(nats_M))
        return Loss(nats_M.sum() / asked, {"accuracy": right_M.float().sum() / asked})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The encoder as a folder, and what was measured."""
        arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        documents = {CONFIG: self._trained.to_json(), TOKENIZER: self._tokenizer.to_json()}
        if self._config.evaluate_lengths:
            documents["evaluation.json"] = self._evaluation(model, validation)
        if self._config.init_report:
            documents["init.json"] = self._init_report()
        return Artifact({WEIGHTS: arrays}, documents, decides=(CONFIG, TOKENIZER))

    def describe(self) -> dict[str, Any]:
        """Fields of the encoder."""
        return {"architecture": TRAINED_ARCHITECTURE, **self._trained.encoder.to_json()}

    def _sequences(self, table: pa.Table, draw: int, length: int | None) -> Sequences:
        """Masked sequences: one a row, or of a length."""
        rows, keys = from_columns(table), table.column(KEY).to_numpy()
        chosen = choose(rows, keys, draw, self._config.mask_share)
        seen = replace(rows, chosen, keys, draw, self._tokenizer.special["mask"], self._ordinary)
        if length is None:
            return one_a_row(rows, seen, chosen, self._frame)
        return joined(rows, seen, chosen, self._frame, length)

    def _evaluation(self, model: nn.Module, validation: Callable[[], Iterator[pa.Table]]) -> dict[str, Any]:
        tables = list(validation())
        lengths = sorted(self._config.evaluate_lengths)
        rows = pa.concat_tables(tables) if tables else None
        found = []
        for length in lengths:
            made = None if rows is None else self._sequences(rows, EVALUATION_DRAW, length)
            found.append(evaluate(model, made, length, guesses))
        return {"mask_share": self._config.mask_share, "trained_at": self._config.max_length, "lengths": found}

    def _init_report(self) -> dict[str, Any]:
        """Of fresh weights; random tokens will do, for fresh weights know no words."""
        shape = (REPORTED_SEQUENCES, self._config.max_length)
        with (
            torch.random.fork_rng(devices=[]),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),  # it keeps cast weights, and would not see the step
        ):
            torch.manual_seed(self._context.seed)
            drawn_BL = torch.randint(len(self._ordinary), shape)
            return init_report(_lasting(self._encoder), torch.from_numpy(self._ordinary).long()[drawn_BL])

    def _check_initial(self, folder: Path) -> None:
        start = TrainedText.read(folder)
        differing = _lasting(start.encoder).differences(self._trained.encoder)
        if differing:
            raise ConfigError(
                f"initialize = '{self._config.initialize}': another architecture: {', '.join(differing)}; "
                "set [stage.model] to what it was trained with, or leave initialize out"
            )
        if start.tokenizer(folder).backend.get_vocab() != self._tokenizer.backend.get_vocab():
            raise ConfigError(
                f"initialize = '{self._config.initialize}': it was trained with another tokenizer; "
                f"set tokenizer = '{folder / TOKENIZER}'"
            )


def _lasting(config: TextEncoderConfig) -> TextEncoderConfig:
    """The architecture without what matters in training alone."""
    return dataclasses.replace(config, dropout=0.0, checkpointing=False)


def guesses(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy [M], fp32, nats, and whether the likeliest token is right, bool [M]."""
    ids_BL = batch["ids"]
    full = Mask.full(ids_BL.shape[0], ids_BL.shape[1], ids_BL.device)
    mask = Mask.padding(batch["valid"]) if "valid" in batch else full
    logits_MV = model(ids_BL, mask, batch["positions"]).float()
    nats_M = F.cross_entropy(logits_MV, batch["labels"], reduction="none")
    return nats_M, logits_MV.detach().argmax(dim=1) == batch["labels"]
