"""What the networks of diffusion models are made of, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from kxbatch.errors import ConfigError

Count = Annotated[int, Field(ge=1, le=2**24)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1)]
Classes = Annotated[int, Field(ge=0, le=2**24)]
Share = Annotated[float, Field(ge=0, lt=1)]
Image = tuple[Count, Count, Count]  # height, width, channels
_CHECKED = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)  # where a field comes from a file


@dataclass(frozen=True)
class MlpConfig:
    """A residual perceptron: vectors, and images small enough to be one.

    Attributes:
        values: numbers of a row, D.
        classes: of the condition; 0: there is none.
        width: of the stream.
        layers: residual blocks of two matrices each.
        dropout: in the blocks while it trains.
    """

    __pydantic_config__ = _CHECKED

    values: Count
    classes: Classes = 0
    width: Count = 256
    layers: Count = 4
    dropout: Share = 0.0
    kind: Literal["mlp"] = "mlp"

    def __post_init__(self) -> None:
        _even("width", self.width, 2)


@dataclass(frozen=True)
class UNetConfig:
    """Convolutions at several sizes of the image, with shortcuts between equal ones (Ho et al. 2020, appendix B).

    Attributes:
        shape: height, width and channels of an image.
        classes: of the condition; 0: there is none.
        channels: of the first level.
        multipliers: channels of each level, as multiples of those; each level halves the image, but for the last.
        blocks: residual blocks of a level on the way down; one more on the way up.
        attention: levels that have self-attention, 0 the full size. The middle always has it.
        heads: of attention.
        dropout: in the blocks while it trains.
    """

    __pydantic_config__ = _CHECKED

    shape: Image
    classes: Classes = 0
    channels: Count = 64
    multipliers: Counts = (1, 2, 2)
    blocks: Count = 2
    attention: tuple[Annotated[int, Field(ge=0)], ...] = (1,)
    heads: Count = 4
    dropout: Share = 0.0
    kind: Literal["unet"] = "unet"

    def __post_init__(self) -> None:
        _even("channels", self.channels, 2)
        levels = len(self.multipliers)
        wrong = [level for level in self.attention if level >= levels]
        if wrong:
            raise ConfigError(f"unet.attention names level {wrong[0]}: multipliers make levels 0 to {levels - 1}")
        for level in (*self.attention, levels - 1):
            channels = self.channels * self.multipliers[level]
            if channels % self.heads:
                raise ConfigError(f"unet.heads = {self.heads}: must divide the {channels} channels of level {level}")
        if max(self.shape[:2]) <= 2 ** (levels - 2):
            raise ConfigError(
                f"unet.multipliers has {levels} levels: an image of {self.shape[0]} x {self.shape[1]} is a single value before the"
                " last of them; name fewer"
            )

    @property
    def values(self) -> int:
        """Numbers of a row, D."""
        return self.shape[0] * self.shape[1] * self.shape[2]


@dataclass(frozen=True)
class PatchConfig:
    """Gated Attention Units over patches of an image, which know their places by rotary positions in two dimensions.

    Attributes:
        shape: height, width and channels of an image.
        classes: of the condition; 0: there is none.
        patch: height and width of a patch.
        dim: width of the stream.
        layers: Gated Attention Units.
        key_dim: of queries and keys; a multiple of 4, half of it for rows and half for columns.
        dropout: of each branch while it trains.
    """

    __pydantic_config__ = _CHECKED

    shape: Image
    classes: Classes = 0
    patch: Count = 2
    dim: Count = 256
    layers: Count = 8
    key_dim: Count = 64
    dropout: Share = 0.0
    kind: Literal["gau"] = "gau"

    def __post_init__(self) -> None:
        _even("dim", self.dim, 2)
        _even("key_dim", self.key_dim, 4)
        if self.shape[0] % self.patch or self.shape[1] % self.patch:
            raise ConfigError(
                f"gau.patch = {self.patch}: must divide height and width of the images, {self.shape[0]} x {self.shape[1]}"
            )

    @property
    def values(self) -> int:
        """Numbers of a row, D."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch


NetworkConfig = MlpConfig | UNetConfig | PatchConfig
CheckedNetwork = Annotated[NetworkConfig, Field(discriminator="kind")]


def to_json(config: NetworkConfig) -> dict[str, Any]:
    """JSON values."""
    return asdict(config)


def from_json(values: dict[str, Any]) -> NetworkConfig:
    """What `to_json` wrote.

    Raises:
        ConfigError: a field is unknown or wrong.
    """
    try:
        return _adapter().validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(f"network of a diffusion model: {first_words(error)}") from None


def first_words(error: ValidationError) -> str:
    """The first thing that is wrong, and where."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in first["loc"]) or "the whole"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


@cache
def _adapter() -> TypeAdapter[NetworkConfig]:
    return TypeAdapter(CheckedNetwork)


def _even(name: str, value: int, parts: int) -> None:
    if value % parts:
        raise ConfigError(f"{name} = {value}: must be a multiple of {parts}")
