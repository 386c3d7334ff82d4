"""What the networks of classifiers are made of, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

Count = Annotated[int, Field(ge=1, le=2**24)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Classes = Annotated[int, Field(ge=2, le=2**24)]
Share = Annotated[float, Field(ge=0, lt=1)]
Image = tuple[Count, Count, Count]  # height, width, channels
_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # where a field comes from a file


@dataclass(frozen=True)
class MlpConfig:
    """A residual perceptron: vectors, and images small enough to be one.

    Attributes:
        values: numbers of a row, D.
        classes: K.
        features: width of the last hidden layer, F.
        width: of the stream.
        layers: residual blocks of two matrices each.
        dropout: in the blocks while it trains.
    """

    __pydantic_config__ = _CHECKED

    values: Count
    classes: Classes
    features: Count = 64
    width: Count = 256
    layers: Count = 4
    dropout: Share = 0.0
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class ConvConfig:
    """Convolutions at several sizes of the image, whose mean over all places is what is looked at.

    Attributes:
        shape: height, width and channels of an image.
        classes: K.
        features: width of the last hidden layer, F.
        channels: of each level; each but the first halves the image.
        dropout: before the last hidden layer while it trains.
    """

    __pydantic_config__ = _CHECKED

    shape: Image
    classes: Classes
    features: Count = 64
    channels: Counts = (32, 64, 128)
    dropout: Share = 0.0
    kind: Literal["conv"] = "conv"

    @property
    def values(self) -> int:
        """Numbers of a row, D."""
        return self.shape[0] * self.shape[1] * self.shape[2]


NetworkConfig = MlpConfig | ConvConfig
CheckedNetwork = Annotated[NetworkConfig, Field(discriminator="kind")]


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """JSON values."""
    return asdict(config)
