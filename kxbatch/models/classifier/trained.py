"""A classifier that was trained here, as a folder: `config.json` and `model.safetensors`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, ValidationError, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError
from kxbatch.models.classifier.config import CheckedNetwork, Count, NetworkConfig, to_json
from kxbatch.models.classifier.model import Classifier, ClassName
from kxbatch.models.classifier.networks import ClassifierNetwork
from kxbatch.models.diffusion.config import first_words
from kxbatch.models.diffusion.scaling import Scaling
from kxbatch.models.folder_digest import folder_digest
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS, filled, packed, unpacked

ARCHITECTURE = "kxbatch-classifier"


class _Config(BaseModel):
    """What `config.json` must be; anybody may have written it."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    architecture: Literal["kxbatch-classifier"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    widths: tuple[Count, ...]
    class_column: str
    classes: tuple[StrictInt | StrictStr, ...]
    held_out: Annotated[float, Field(ge=0, lt=1)]
    image: bool
    shape: tuple[Count, Count, Count] | None
    levels: Annotated[int, Field(ge=2, le=65536)] | None
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
class TrainedClassifier:
    """What `config.json` says.

    Attributes:
        network: the architecture.
        columns: what it was trained on, in order.
        widths: values of each column.
        class_column: where classes came from.
        classes: by number, integers or texts as the column had them.
        held_out: share of the rows, chosen by id, that it has never learned from.
        image: the one column has images.
        shape: height, width, channels of an image, or of a vector that is one; None for others.
        levels: values are whole numbers 0 to `levels - 1`; None: any.
    """

    network: NetworkConfig
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    class_column: str
    classes: tuple[ClassName, ...]
    held_out: float = 0.0
    image: bool = False
    shape: tuple[int, int, int] | None = None
    levels: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        plain = {name: list(found) if isinstance(found, tuple) else found for name, found in vars(self).items()}
        return {"architecture": ARCHITECTURE, **plain, "network": to_json(self.network)}

    @classmethod
    def read(cls, folder: Path) -> TrainedClassifier:
        """Of a folder.

        Raises:
            ConfigError: it holds no such model, or not all of it.
        """
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"'{folder}' is no trained classifier: {', '.join(missing)} missing; name the `_artifact` folder of a stage of "
                "kind 'classifier', or 'stage:<name>'"
            )
        try:
            found = _Config.model_validate_json((folder / CONFIG).read_bytes())
        except ValidationError as error:
            raise ConfigError(f"'{folder / CONFIG}': {first_words(error)}") from None
        return cls(**{name: getattr(found, name) for name in cls.__dataclass_fields__})

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> Classifier:
        """The classifier of a folder, in evaluation mode.

        Args:
            folder: an artifact.
            device: where it is to compute.

        Raises:
            ConfigError: as in `read`, or a file is damaged or does not belong to `config.json`.
        """
        trained = cls.read(folder)
        weights, scaling = trained.unpack(folder / WEIGHTS)
        return Classifier(
            network=filled(lambda: ClassifierNetwork(trained.network), weights, folder / WEIGHTS).to(device),
            scaling=scaling,
            columns=trained.columns,
            widths=trained.widths,
            classes=trained.classes,
            held_out=trained.held_out,
            image=trained.image,
            shape=trained.shape,
            levels=trained.levels,
        )

    def pack(self, weights: Arrays, scaling: Scaling) -> Arrays:
        """The contents of `model.safetensors`."""
        return packed(weights, scaling.centre, scaling.spread)

    def unpack(self, file: Path) -> tuple[Arrays, Scaling]:
        """Weights by name, and the units they go with.

        Raises:
            ConfigError: the file is damaged or does not belong to `config.json`.
        """
        weights, centre, spread = unpacked(file, self.network.values)
        return weights, Scaling(centre, spread, self.levels)


def classifier_digest(folder: Path) -> str:
    """Digest of what decides its judgements."""
    return folder_digest(folder, (CONFIG, WEIGHTS))
