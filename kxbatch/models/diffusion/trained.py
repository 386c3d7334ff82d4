"""A diffusion model that was trained here, as a folder: `config.json`, `model.safetensors` and `live.safetensors`.

`model.safetensors` has the averaged weights, where training kept an average; then `live.safetensors` has those that the
optimiser left. Without an average the one file has both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import Prediction, Schedule, ScheduleKind, Weighting
from kxbatch.models.diffusion.config import CheckedNetwork, Count, NetworkConfig, first_words, to_json
from kxbatch.models.diffusion.model import ClassName, DiffusionModel
from kxbatch.models.diffusion.networks import make_network
from kxbatch.models.diffusion.noise_schedule import NoiseSchedule
from kxbatch.models.diffusion.scaling import Scaling
from kxbatch.models.folder_digest import folder_digest
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS, filled, packed, unpacked

LIVE = "live.safetensors"
ARCHITECTURE = "kxbatch-diffusion-model"
Which = Literal["average", "live"]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Schedule(_Strict):
    kind: ScheduleKind
    steps: Annotated[int, Field(ge=1, le=100_000)]
    parameters: dict[str, float]
    identity: str


class _Config(_Strict):
    """What `config.json` must be; anybody may have written it."""

    architecture: Literal["kxbatch-diffusion-model"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    widths: tuple[Count, ...]
    image: bool
    shape: tuple[Count, Count, Count] | None
    levels: Annotated[int, Field(ge=2, le=65536)] | None
    class_column: str | None
    classes: tuple[StrictInt | StrictStr, ...]
    unconditional: bool
    held_out: Annotated[float, Field(ge=0, lt=1)]
    prediction: Prediction
    weighting: Weighting
    average: bool
    schedule: _Schedule
    network: CheckedNetwork

    @model_validator(mode="after")
    def _numbers_agree(self) -> _Config:
        network = self.network
        if len(self.widths) != len(self.columns) or sum(self.widths) != network.values:
            raise ValueError("columns, widths and network do not agree")
        if self.shape is not None and math.prod(self.shape) != network.values:
            raise ValueError("shape and network do not agree")
        if len(set(self.classes)) != network.classes or len(self.classes) != network.classes:
            raise ValueError("classes and network.classes do not agree")
        return self


@dataclass(frozen=True)
class TrainedDiffusion:
    """What `config.json` says.

    Attributes:
        network: the architecture.
        schedule: the noise it was trained with.
        columns: what it was trained on, in order.
        widths: values of each column.
        prediction: what the network says.
        weighting: how errors were weighed.
        held_out: share of the rows, chosen by id, that it has never learned from.
        average: whether `model.safetensors` has averaged weights, and `live.safetensors` is there.
        image: the one column has images.
        shape: height, width, channels of an image, or of a vector that is one; None for others.
        levels: values are whole numbers 0 to `levels - 1`; None: any.
        class_column: where classes came from; None without.
        classes: by number, integers or texts as the column had them.
        unconditional: whether it has learned to go without a class.
    """

    network: NetworkConfig
    schedule: NoiseSchedule
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    prediction: Prediction = "eps"
    weighting: Weighting = "simple"
    held_out: float = 0.0
    average: bool = False
    image: bool = False
    shape: tuple[int, int, int] | None = None
    levels: int | None = None
    class_column: str | None = None
    classes: tuple[ClassName, ...] = ()
    unconditional: bool = True

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        plain = {name: list(found) if isinstance(found, tuple) else found for name, found in vars(self).items()}
        nested = {"schedule": self.schedule.to_json(), "network": to_json(self.network)}
        return {"architecture": ARCHITECTURE, **plain, **nested}

    @classmethod
    def read(cls, folder: Path, schedule: Schedule | None = None) -> TrainedDiffusion:
        """Of a folder.

        Args:
            folder: an artifact.
            schedule: the one it must have been trained with; None: any.

        Raises:
            ConfigError: it holds no such model, or not all of it, or one of another schedule.
        """
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"'{folder}' is no trained diffusion model: {', '.join(missing)} missing; name the `_artifact` folder of a "
                "stage of kind 'ddpm', or 'stage:<name>'"
            )
        try:
            found = _Config.model_validate_json((folder / CONFIG).read_bytes())
            noise = NoiseSchedule.from_json(found.schedule.model_dump())
        except ValidationError as error:
            raise ConfigError(f"'{folder / CONFIG}': {first_words(error)}") from None
        except ConfigError as error:
            raise ConfigError(f"'{folder / CONFIG}': {error}") from None
        if schedule is not None:
            schedule.require(found.schedule.identity, f"'{folder}'")
        plain = {name: getattr(found, name) for name in cls.__dataclass_fields__ if name not in ("schedule", "network")}
        return cls(network=found.network, schedule=noise, **plain)

    @classmethod
    def load(
        cls, folder: Path, *, which: Which = "average", device: str = "cpu", schedule: Schedule | None = None
    ) -> DiffusionModel:
        """The model of a folder, in evaluation mode.

        Args:
            folder: an artifact.
            which: averaged weights, if there are any, or those that the optimiser left.
            device: where it is to compute.
            schedule: as in `read`.

        Raises:
            ConfigError: as in `read`, or a file is damaged or does not belong to `config.json`.
        """
        trained = cls.read(folder, schedule)
        file = LIVE if which == "live" and trained.average else WEIGHTS
        weights, scaling = trained.unpack(folder / file)
        return DiffusionModel(
            network=filled(lambda: make_network(trained.network), weights, folder / file).to(device),
            schedule=trained.schedule.make(),
            prediction=trained.prediction,
            scaling=scaling,
            shape=trained.shape,
            classes=trained.classes,
            unconditional=trained.unconditional,
        )

    def pack(self, weights: Arrays, scaling: Scaling) -> Arrays:
        """The contents of `model.safetensors` or `live.safetensors`."""
        return packed(weights, scaling.centre, scaling.spread)

    def unpack(self, file: Path) -> tuple[Arrays, Scaling]:
        """Weights by name, and the units they go with.

        Raises:
            ConfigError: the file is damaged or does not belong to `config.json`.
        """
        weights, centre, spread = unpacked(file, self.network.values)
        return weights, Scaling(centre, spread, self.levels)


def diffusion_digest(folder: Path) -> str:
    """Digest of what decides its samples."""
    return folder_digest(folder, (name for name in (CONFIG, WEIGHTS, LIVE) if (folder / name).is_file()))
