"""Training a classifier: rows to the units of the network, cross-entropy, and the folder that judges samples.

Letters: B rows of a batch, D values of a row, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.data.arrays import Arrays
from kxbatch.data.vectors import to_arrow, to_numpy
from kxbatch.errors import ConfigError
from kxbatch.models.classifier.config import ConvConfig, MlpConfig, NetworkConfig, to_json
from kxbatch.models.classifier.networks import ClassifierNetwork
from kxbatch.models.classifier.trained import ARCHITECTURE, TrainedClassifier
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS
from kxbatch.stages.base import Artifact, Context
from kxbatch.stages.class_column import class_numbers, read_classes
from kxbatch.stages.classifier import ClassifierStage
from kxbatch.stages.classifier_config import ClassifierConfig
from kxbatch.stages.numeric import Shape, read_numeric
from kxbatch.stages.numeric_facts import image_shape
from kxbatch.stages.scaled_columns import scaling_of
from kxbatch.stages.task import Batch, Loss

VALUES, CLASS = "values", "class"


class ClassifierTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, stage: ClassifierStage, context: Context) -> None:
        assert context.facts is not None
        facts = context.facts()
        self._stage, self._trained = stage, _described(stage, facts)
        self._scaling = scaling_of(stage.config, stage.data_columns, facts, self._trained.levels)

    def model(self) -> nn.Module:
        """New weights: PyTorch's usual ones."""
        return ClassifierNetwork(self._trained.network)

    def encode(self, table: pa.Table) -> pa.Table:
        """Columns `values`, in the units of the network, and `class`, by number."""
        found = read_numeric(table, self._stage.data_columns, self._stage.domain(table))
        numbers = class_numbers(table.column(self._trained.class_column), self._trained.classes)
        return pa.table({VALUES: to_arrow(self._scaling(found.values)), CLASS: pa.array(numbers)})

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `values` [B, D] and `class` [B]; nothing is drawn."""
        values = to_numpy(rows.column(VALUES), VALUES)
        numbers = rows.column(CLASS).to_numpy()
        tensors = {VALUES: torch.from_numpy(values.copy()), CLASS: torch.from_numpy(numbers.copy())}
        return Batch(tensors, len(rows), values.size, len(rows))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """Cross-entropy in nats, and the share of rows whose most likely class is theirs."""
        _, logits_BK = model(batch[VALUES])
        right_B = (logits_BK.argmax(dim=1) == batch[CLASS]).float()
        return Loss(F.cross_entropy(logits_BK.float(), batch[CLASS]), {"accuracy": right_B.mean().detach()})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The model as a folder."""
        arrays: Arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        packed = self._trained.pack(arrays, self._scaling)
        return Artifact({WEIGHTS: packed}, {CONFIG: self._trained.to_json()}, decides=(CONFIG,))

    def describe(self) -> dict[str, Any]:
        """Fields of the architecture."""
        return {"architecture": ARCHITECTURE, **to_json(self._trained.network)}


def _described(stage: ClassifierStage, facts: Arrays) -> TrainedClassifier:
    config, classes = stage.config, read_classes(facts)
    image, shape = len(facts["shape"]) > 0, image_shape(config.shape, facts)
    widths = tuple(int(width) for width in facts["widths"])
    return TrainedClassifier(
        network=_network(config, sum(widths), shape, len(classes)),
        columns=stage.data_columns,
        widths=widths,
        class_column=config.class_column,
        classes=classes,
        held_out=config.training.validation_share,
        image=image,
        shape=shape,
        levels=config.level_count(image),
    )


def _network(config: ClassifierConfig, values: int, shape: Shape | None, classes: int) -> NetworkConfig:
    """The architecture.

    Raises:
        ConfigError: convolutions have no image.
    """
    if config.network == "mlp":
        return MlpConfig(values=values, classes=classes, features=config.features, **config.mlp.model_dump())
    if shape is None:
        raise ConfigError(f"network = 'conv' wants images; say shape = [height, width] of the {values} values of a row")
    return ConvConfig(shape=shape, classes=classes, features=config.features, **config.conv.model_dump())
