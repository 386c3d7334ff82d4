"""Configuration of the `ddpm` stage: which noise, which network, and what goes together."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from kxbatch.spec.model import Config
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.scaled_columns import ScaledColumns, Sizes

LEAVES = "diffusion model"
_PARAMETERS = {"linear": ("first", "last"), "cosine": ("offset", "most"), "su": ("last",)}


class NoiseConfig(Config):
    """How fast noise comes in."""

    kind: Literal["linear", "cosine", "su"] = Field("linear", description="shape of the schedule")
    steps: int = Field(1000, ge=1, le=100_000, description="T: times go from 1 to it, 0 is the data")
    first: float | None = Field(
        None, gt=0, lt=1, description="linear: share of noise `b^2` of the first step; absent: 0.0001"
    )
    last: float | None = Field(None, gt=0, lt=1, description="linear, su: of the last step; absent: 0.02")
    offset: float | None = Field(
        None, gt=0, description="cosine: keeps the first steps from being too small; absent: 0.008"
    )
    most: float | None = Field(
        None, gt=0, lt=1, description="cosine: the largest share of noise of a step; absent: 0.999"
    )

    @model_validator(mode="after")
    def _parameters_belong_to_the_kind(self) -> NoiseConfig:
        known = _PARAMETERS[self.kind]
        wrong = [
            name
            for name in ("first", "last", "offset", "most")
            if getattr(self, name) is not None and name not in known
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} is no parameter of kind = '{self.kind}', which has {' and '.join(known)}")
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Those that are set."""
        return {name: value for name in _PARAMETERS[self.kind] if (value := getattr(self, name)) is not None}


class MlpNetwork(Config):
    """A residual perceptron."""

    width: int = Field(256, ge=2, multiple_of=2, description="width of the stream, even")
    layers: int = Field(4, ge=1, description="residual blocks")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the blocks")


class UNetNetwork(Config):
    """A U-Net."""

    channels: int = Field(64, ge=2, multiple_of=2, description="channels at full size, even")
    multipliers: Sizes = Field(
        (1, 2, 2),
        min_length=1,
        description="channels of each level, as multiples; between two levels the image is halved",
    )
    blocks: int = Field(2, ge=1, description="residual blocks of a level")
    attention: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (1,), description="levels with self-attention, 0 is the full size; the middle always has it"
    )
    heads: int = Field(4, ge=1, description="heads of attention")
    dropout: float = Field(0.0, ge=0, lt=1, description="in the blocks")


class GauNetwork(Config):
    """Gated Attention Units over patches."""

    patch: int = Field(2, ge=1, description="height and width of a patch")
    dim: int = Field(256, ge=2, multiple_of=2, description="width of the stream, even")
    layers: int = Field(8, ge=1, description="Gated Attention Units")
    key_dim: int = Field(
        64,
        ge=4,
        multiple_of=4,
        description="width of queries and keys: half for rows, half for columns; a multiple of 4",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="of each branch")


class DdpmConfig(ScaledColumns):
    """Trains a diffusion model on numbers, vectors or images."""

    leaves: ClassVar[str] = LEAVES

    kind: Literal["ddpm"] = "ddpm"
    class_column: str | None = Field(
        None, description="text or whole-number column: samples can be asked for by its values; absent: no classes"
    )
    class_dropout: float = Field(
        0.1, ge=0, lt=1, description="share of the rows whose class is kept back, so that samples can be guided"
    )
    noise: NoiseConfig = NoiseConfig()
    prediction: Literal["eps", "x0", "v"] = Field(
        "eps", description="what the network says of x_t: the noise, the data, or the velocity between them"
    )
    weighting: Literal["simple", "snr", "min-snr"] = Field(
        "simple",
        description="of the squared error at each time: 1; as if the noise were predicted; the same up to gamma",
    )
    gamma: float | None = Field(
        None, gt=0, description="min-snr: the largest weight of the error in the data; absent: 5"
    )
    network: Literal["mlp", "unet", "gau"] = Field(
        "mlp", description="residual perceptron; convolutions for images; Gated Attention Units over patches of images"
    )
    mlp: MlpNetwork = MlpNetwork()
    unet: UNetNetwork = UNetNetwork()
    gau: GauNetwork = GauNetwork()
    training: TrainingConfig = TrainingConfig(validation_share=0.1, ema=0.999)

    @model_validator(mode="after")
    def _fields_go_together(self) -> DdpmConfig:
        if self.columns is not None and self.class_column in self.columns:
            raise ValueError(f"class_column '{self.class_column}' is among the columns: a class is told, not learned")
        if self.gamma is not None and self.weighting != "min-snr":
            raise ValueError(f"gamma goes with weighting = 'min-snr', not with '{self.weighting}'")
        for name in ("mlp", "unet", "gau"):
            if name != self.network and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"[stage.{name}] goes with network = '{name}', and network is '{self.network}'")
        return self
