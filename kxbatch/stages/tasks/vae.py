"""Training a variational autoencoder: rows to values, the bound, and the folder a `density` stage reads.

Letters: N rows of a batch, M samples of a row, L latent dimensions, D values of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn

from kxbatch.data.arrays import Arrays
from kxbatch.data.row_draws import seeds, standard_normal
from kxbatch.data.vectors import to_arrow, to_numpy
from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.spread import Spread
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS
from kxbatch.models.trained_vae import ARCHITECTURE, TrainedVae
from kxbatch.models.vae import Vae, objective
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_inputs import Inputs
from kxbatch.stages.base import Artifact, Context
from kxbatch.stages.numeric import read_numeric
from kxbatch.stages.numeric_facts import image_shape, spread_in
from kxbatch.stages.task import KEY, Batch, Loss
from kxbatch.stages.vae import VaeConfig, VaeStage

VALUES = "values"
_STREAM = 5  # of the noise in training
_NAMED = 5  # constant values a message names


class VaeTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, stage: VaeStage, context: Context) -> None:
        assert context.facts is not None
        self._stage, self._config, self._seed = stage, stage.config, context.seed
        facts = context.facts()
        self._widths = tuple(int(width) for width in facts["widths"])
        spread = spread_in(facts)
        self._architecture = _architecture(stage.config, facts)
        self._inputs = _inputs(stage, spread, self._widths)

    def model(self) -> nn.Module:
        """New weights, PyTorch's usual ones."""
        return Vae(self._architecture)

    def encode(self, table: pa.Table) -> pa.Table:
        """Column `values`: rows in the units of the model."""
        found = read_numeric(table, self._stage.data_columns, self._stage.domain)
        return pa.table({VALUES: to_arrow(self._inputs(found.values))})

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `values` [N, D], `noise` [N, M, L] and `kl_weight`; `draw` is the epoch, or negative for validation."""
        config = self._config
        values = to_numpy(rows.column(VALUES), VALUES)
        starts = seeds(seeds(rows.column(KEY).to_numpy(), self._seed, _STREAM), draw, _STREAM)
        noise = standard_normal(starts, 0, config.importance_samples, config.latent)
        weight = min(1.0, (draw + 1) / config.kl_warmup) if config.kl_warmup and draw >= 0 else 1.0
        tensors = {
            "values": torch.from_numpy(values.copy()),
            "noise": torch.from_numpy(noise),
            "kl_weight": torch.tensor(weight),
        }
        return Batch(tensors, len(rows), values.size, len(rows))

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """The negative bound, nats a row in the units of the model."""
        found = objective(
            model,
            batch["values"],
            batch["noise"],
            kl_weight=batch["kl_weight"],
            free_bits=self._config.free_bits,
            doubly_reparameterised=self._config.doubly_reparameterised,
        )
        return Loss(found.loss, {"bound": found.bound, "kl": found.kl})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The model as a folder."""
        config = self._config
        trained = TrainedVae(
            network=self._architecture,
            columns=self._stage.data_columns,
            widths=self._widths,
            held_out=config.training.validation_share,
            nulls=config.nulls,
            transform=self._inputs.transform,
        )
        arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        packed = trained.pack(arrays, self._inputs)
        return Artifact({WEIGHTS: packed}, {CONFIG: trained.to_json()}, decides=(CONFIG,))

    def describe(self) -> dict[str, Any]:
        """Fields of the architecture."""
        return {"architecture": ARCHITECTURE, **self._architecture.to_json()}


def _architecture(config: VaeConfig, facts: Arrays) -> VaeArchitecture:
    values = int(facts["widths"].sum())
    step = 1.0 if config.level_count is None else 1.0 / (config.level_count - 1)
    default_size, default_floor = (1.0, 0.01) if config.level_count is None else (2.0, 0.1)
    return VaeArchitecture(
        values=values,
        latent=config.latent,
        shape=_shape(config, facts, values),
        network=config.network,
        hidden=config.hidden,
        activation=config.activation,
        dropout=config.dropout,
        likelihood=config.likelihood,
        levels=config.level_count or 0,
        scale=config.scale,
        scale_size=(config.scale_size or default_size) * step,
        scale_floor=(config.scale_floor or default_floor) * step,
    )


def _shape(config: VaeConfig, facts: Arrays, values: int) -> tuple[int, int, int] | None:
    """Of the images.

    Raises:
        ConfigError: `shape` does not fit, or convolutions have no image.
    """
    shape = image_shape(config.shape, facts)
    if shape is None and config.network == "conv":
        raise ConfigError(f"network = 'conv' wants images; say shape = [height, width] of the {values} values of a row")
    return shape


def _inputs(stage: VaeStage, spread: Spread, widths: tuple[int, ...]) -> Inputs:
    """Units of the model.

    Raises:
        DataError: a value is the same in all rows: a normal density would be infinite.
    """
    config = stage.config
    if config.level_count is not None:
        return Inputs.levels(len(spread.mean), config.level_count)
    if not spread.count.any():
        raise DataError(f"columns {', '.join(stage.data_columns)}: no row to learn from")
    constant = np.flatnonzero(spread.constant)
    if len(constant):
        names = [f"{n}[{i}]" if w > 1 else n for n, w in zip(stage.data_columns, widths, strict=True) for i in range(w)]
        named = ", ".join(names[at] for at in constant[:_NAMED])
        more = f" and {len(constant) - _NAMED} more" if len(constant) > _NAMED else ""
        raise DataError(
            f"constant in all rows to learn from: {named}{more}; there is no density along them: leave them out, "
            "whiten vectors first, or use likelihood = 'discretised-logistic' for whole levels"
        )
    if config.transform == "none":
        return Inputs(np.zeros(len(spread.mean)), np.ones(len(spread.mean)), "none")
    return Inputs(spread.mean, spread.deviation, config.transform)
