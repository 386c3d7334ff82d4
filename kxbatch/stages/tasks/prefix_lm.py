"""Training a retriever: questions and keys to sequences, the loss, and the folder a `retrieve` stage reads.

Shapes: B rows, L tokens of question and key together, M tokens of the keys, V vocabulary.
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

from kxbatch.kernels.trie import Keys
from kxbatch.models.graph import Spelling
from kxbatch.models.masks import Mask
from kxbatch.models.retrieval.prefix_lm import prefix_lm
from kxbatch.models.retrieval.trained import ARCHITECTURE, CONFIG, TOKENIZER, WEIGHTS, TrainedPrefixLm
from kxbatch.models.trained_text import load_weights
from kxbatch.stages.base import Artifact, Context, trained_path
from kxbatch.stages.prefix_lm import PrefixLmConfig, spelled
from kxbatch.stages.task import Batch, Loss

SOURCE, TARGET = "source", "target"


class PrefixLmTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, config: PrefixLmConfig, context: Context) -> None:
        self._config = config
        self._spelling = Spelling.read(Path(config.graph))
        tokenizer = self._spelling.tokenizer
        self._encoder = config.model.architecture(tokenizer.vocabulary, tokenizer.pad)
        lasting = dataclasses.replace(self._encoder, dropout=0.0, checkpointing=False)
        self._trained = TrainedPrefixLm(
            lasting, config.max_question, config.shifts, self._spelling.order, tokenizer.digest
        )
        self._initial = None if config.initialize is None else Path(trained_path(config.initialize, context))
        if self._initial is not None:
            self._trained.check_start(self._initial)

    def model(self) -> nn.Module:
        """New weights, or those to start from. The head is the token vectors, as in a masked LM; the mask makes the difference."""
        model = prefix_lm(self._encoder, self._config.shifts)
        if self._initial is not None:
            load_weights(model, self._initial)
        return model

    def encode(self, table: pa.Table) -> pa.Table:
        """Columns `source` and `target`, lists of tokens without separators at their ends."""
        questions, keys = spelled(table, self._config, self._spelling)
        return pa.table({SOURCE: _to_lists(questions), TARGET: _to_lists(keys)})

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `ids` [B, L], `source` [B], `valid` [B, L], `positions` [M] and `labels` [M]; nothing is drawn.

        A row is `question [SEP] key [SEP]`; asked for are the tokens after the first separator.
        """
        separator = self._spelling.tokenizer.separator
        sources, targets = (_with_separator(_of_lists(rows.column(name)), separator) for name in (SOURCE, TARGET))
        source_B, target_B = sources.lengths, targets.lengths
        length_B = source_B + target_B
        ids_BL = np.full((len(rows), int(length_B.max())), self._spelling.tokenizer.pad, np.int64)
        place_L = np.arange(ids_BL.shape[1])
        in_source = place_L < source_B[:, None]
        valid_BL = place_L < length_B[:, None]
        ids_BL[in_source] = sources.tokens
        ids_BL[valid_BL & ~in_source] = targets.tokens
        arrays: dict[str, npt.NDArray[Any]] = {
            "ids": ids_BL,
            "source": source_B,
            "valid": valid_BL,
            "positions": np.flatnonzero(valid_BL & ~in_source) - 1,  # a token is told by the state before it
            "labels": targets.tokens.astype(np.int64),
        }
        tokens = int(length_B.sum())
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        return Batch(tensors, len(rows), tokens, len(targets.tokens), ids_BL.size - tokens)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """Cross-entropy in nats, and accuracy, at the tokens of the keys, each told by the question and those before it."""
        mask = Mask.prefix(batch["valid"], batch["source"])
        logits_MV = model(batch["ids"], mask, batch["positions"]).float()
        right_M = logits_MV.detach().argmax(dim=1) == batch["labels"]
        mean = F.cross_entropy(logits_MV, batch["labels"])
        return Loss(mean, {"accuracy": right_M.float().mean()})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The model as a folder, its tokenizer beside it."""
        arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        documents = {CONFIG: self._trained.to_json(), TOKENIZER: self._spelling.tokenizer.to_json()}
        return Artifact({WEIGHTS: arrays}, documents, decides=(CONFIG, TOKENIZER))

    def describe(self) -> dict[str, Any]:
        """Fields of the model."""
        return {"architecture": ARCHITECTURE, "shifts": self._trained.shifts, **self._trained.encoder.to_json()}


def _to_lists(keys: Keys) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(keys.starts.astype(np.int32)), pa.array(keys.tokens.astype(np.int32)))


def _of_lists(column: pa.ChunkedArray) -> Keys:
    lists = column.combine_chunks()
    starts = np.concatenate([[0], np.cumsum(lists.value_lengths().to_numpy(), dtype=np.int64)])
    return Keys(lists.flatten().to_numpy().astype(np.uint32), starts)


def _with_separator(keys: Keys, separator: int) -> Keys:
    ends = np.insert(keys.tokens, keys.starts[1:], separator)
    return Keys(ends, keys.starts + np.arange(len(keys) + 1))
