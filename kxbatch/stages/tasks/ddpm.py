"""Training a diffusion model: rows to the units of the model, times and noise of each row, and the folder samples are made from.

Letters: B rows of a batch, D values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import seeds, standard_normal, uniform
from kxbatch.data.vectors import to_arrow, to_numpy
from kxbatch.errors import ConfigError
from kxbatch.models.diffusion.config import MlpConfig, NetworkConfig, PatchConfig, UNetConfig, to_json
from kxbatch.models.diffusion.loss import Objective
from kxbatch.models.diffusion.networks import Network, make_network
from kxbatch.models.diffusion.noise_schedule import NoiseSchedule
from kxbatch.models.diffusion.trained import ARCHITECTURE, LIVE, TrainedDiffusion
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS
from kxbatch.stages.base import Artifact, Context
from kxbatch.stages.class_column import class_numbers, read_classes
from kxbatch.stages.ddpm import DdpmStage
from kxbatch.stages.ddpm_config import DdpmConfig
from kxbatch.stages.numeric import Shape, read_numeric
from kxbatch.stages.numeric_facts import image_shape
from kxbatch.stages.scaled_columns import scaling_of
from kxbatch.stages.task import KEY, Batch, Loss

VALUES, CLASS = "values", "class"
_STREAM = 6  # of all that is drawn in training
_NOISE, _CHOICES = 0, 1  # streams within it
_TIME, _DROPPED = 0, 1  # places of the choices


class DdpmTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, stage: DdpmStage, context: Context) -> None:
        assert context.facts is not None
        self._stage, self._config, self._seed = stage, stage.config, context.seed
        config, facts = stage.config, context.facts()
        self._trained = _described(stage, facts)
        self._scaling = scaling_of(config, stage.data_columns, facts, self._trained.levels)
        self._objective = Objective(
            self._trained.schedule.make(), config.prediction, config.weighting, config.gamma or 5.0
        )

    def model(self) -> nn.Module:
        """New weights: PyTorch's usual ones, but zero at the end of every branch."""
        return make_network(self._trained.network)

    def encode(self, table: pa.Table) -> pa.Table:
        """Columns `values`, in the units of the model, and `class`, where there are classes."""
        found = read_numeric(table, self._stage.data_columns, self._stage.domain(table))
        columns = {VALUES: to_arrow(self._scaling(found.values))}
        if self._trained.class_column is not None:
            numbers = class_numbers(table.column(self._trained.class_column), self._trained.classes)
            columns[CLASS] = pa.array(numbers)
        return pa.table(columns)

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `x0` and `eps` [B, D], `t` [B], `class` [B]; a row has one time and one noise in each epoch."""
        values = to_numpy(rows.column(VALUES), VALUES)
        starts = seeds(rows.column(KEY).to_numpy(), self._seed, _STREAM)
        noise = standard_normal(seeds(starts, draw, _NOISE), 0, 1, values.shape[1])[:, 0]
        choices = uniform(seeds(starts, draw, _CHOICES)[:, None], np.array([[_TIME, _DROPPED]]))
        times = 1 + np.floor(choices[:, 0] * self._objective.schedule.steps).astype(np.int64)
        tensors = {
            "x0": torch.from_numpy(values.copy()),
            "eps": torch.from_numpy(noise.copy()),
            "t": torch.from_numpy(times),
        }
        if CLASS in rows.column_names:
            dropped = choices[:, 1] < (self._config.class_dropout if draw >= 0 else 0.0)
            numbers = np.where(dropped, len(self._trained.classes), rows.column(CLASS).to_numpy())
            tensors["class"] = torch.from_numpy(numbers)
        return Batch(tensors, len(rows), values.size, len(rows))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """The weighted squared error, summed over the values of a row."""
        found = self._objective(cast(Network, model), batch["x0"], batch["eps"], batch["t"], batch.get("class"))
        return Loss(found.loss, {"noise_error": found.noise_error})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The model as a folder."""
        return Artifact({WEIGHTS: self._packed(weights)}, {CONFIG: self._trained.to_json()}, decides=(CONFIG,))

    def live_files(self, weights: Mapping[str, Tensor]) -> dict[str, Arrays]:
        """`live.safetensors`: see `kxbatch.stages.task.LeavesLive`."""
        return {LIVE: self._packed(weights)}

    def describe(self) -> dict[str, Any]:
        """Fields of the architecture, and the schedule: a network knows only the noise it was trained with."""
        schedule = self._objective.schedule.identity
        return {"architecture": ARCHITECTURE, "schedule": schedule, **to_json(self._trained.network)}

    def _packed(self, weights: Mapping[str, Tensor]) -> Arrays:
        arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        return self._trained.pack(arrays, self._scaling)


def _described(stage: DdpmStage, facts: Arrays) -> TrainedDiffusion:
    config, classes = stage.config, read_classes(facts)
    image, shape = len(facts["shape"]) > 0, image_shape(config.shape, facts)
    widths = tuple(int(width) for width in facts["widths"])
    noise = config.noise
    return TrainedDiffusion(
        network=_network(config, sum(widths), shape, len(classes)),
        schedule=NoiseSchedule(noise.kind, noise.steps, noise.parameters),
        columns=stage.data_columns,
        widths=widths,
        prediction=config.prediction,
        weighting=config.weighting,
        held_out=config.training.validation_share,
        average=config.training.ema is not None,
        image=image,
        shape=shape,
        levels=config.level_count(image),
        class_column=config.class_column,
        classes=classes,
        unconditional=config.class_dropout > 0 or not classes,
    )


def _network(config: DdpmConfig, values: int, shape: Shape | None, classes: int) -> NetworkConfig:
    """The architecture.

    Raises:
        ConfigError: convolutions or patches have no image, or one that they do not fit.
    """
    chosen = {"mlp": config.mlp, "unet": config.unet, "gau": config.gau}[config.network].model_dump()
    if config.network == "mlp":
        return MlpConfig(values=values, classes=classes, **chosen)
    if shape is None:
        raise ConfigError(
            f"network = '{config.network}' wants images; say shape = [height, width] of the {values} values of a row"
        )
    kind = UNetConfig if config.network == "unet" else PatchConfig
    return kind(shape=shape, classes=classes, **chosen)
