"""What a training stage tells the trainer: its model, how rows become batches, the loss, and what is left in the end.

The trainer decides which rows form a batch, on how many processes, how often state is saved. A task decides nothing of that, draws
nothing at random but from the numbers it is given, and keeps no state between calls: so a run that was killed
goes on as if nothing had happened, and any number of processes train the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.stages.base import Artifact

if TYPE_CHECKING:
    from torch import Tensor, nn

KEY = "key"  # uint64 column of encoded rows: a number that belongs to the row for ever, made from its id


@dataclass
class Batch:
    """Rows that go through the model together.

    Attributes:
        tensors: by name, on the CPU; the trainer moves them.
        rows: how many rows they come from.
        tokens: what was asked of the model, in tokens (or values), padding left out.
        weight: how many things its loss is a mean over. The micro-batches of a step, and the batches of a validation, are
            weighed with it, so that the mean is one over all their things, however they are cut. 0 where there is nothing
            to predict.
        padding: tokens of padding.
    """

    tensors: dict[str, Tensor]
    rows: int
    tokens: int
    weight: int
    padding: int = 0


@dataclass
class Loss:
    """What the model made of a batch.

    Attributes:
        mean: scalar, what is minimised.
        metrics: further means over the same things, detached.
    """

    mean: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Task(Protocol):
    """A model to be trained."""

    def model(self) -> nn.Module:
        """The model with its first weights, drawn from torch's generator, which the trainer has seeded; fp32, on the CPU."""

    def encode(self, table: pa.Table) -> pa.Table:
        """Rows ready for `collate`: tokenised. Called in reader processes and threads, for usable rows alone.

        Args:
            table: `id` and the stage's columns.

        Returns:
            As many rows, in the same order. The trainer adds `KEY`.
        """

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """A batch of encoded rows.

        Args:
            rows: as `encode` left them, with `KEY`; at least one.
            draw: what is drawn at random for a row depends on this number and the row's key alone; one number an epoch, and
                always the same one for validation.
        """

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """Loss of a batch, whose tensors are on the model's device."""

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """What the stage leaves: `model.safetensors`, `config.json`, and what evaluations say.

        Args:
            model: with the weights that are exported, in inference mode, on the trainer's device.
            weights: these weights by name, fp32, on the CPU.
            validation: encoded rows that were held out, batch by batch, each time from the start; none without a share for it.
        """

    def describe(self) -> dict[str, Any]:
        """The architecture, as flat JSON values: a state is only loaded into a model of the same."""


@runtime_checkable
class LeavesLive(Protocol):
    """A task that, where weights are averaged, leaves both: the average by `finish`, and what the optimiser left by this."""

    def live_files(self, weights: Mapping[str, Tensor]) -> dict[str, Arrays]:
        """Further files of the artifact, arrays by the file's name.

        Args:
            weights: those that the optimiser left, by name, fp32, on the CPU.
        """
