"""Configuration of the `classifier` stage: which columns, which network, and what goes together."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from kxbatch.spec.model import Config
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.ddpm_config import MlpNetwork
from kxbatch.stages.scaled_columns import ScaledColumns, Sizes

LEAVES = "classifier"


class ConvNetwork(Config):
    """Convolutions."""

    channels: Sizes = Field(
        (32, 64, 128), min_length=1, description="channels of each level; each but the first halves the image"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last hidden layer")


class ClassifierConfig(ScaledColumns):
    """Trains a classifier of numbers, vectors or images."""

    leaves: ClassVar[str] = LEAVES

    kind: Literal["classifier"] = "classifier"
    class_column: str = Field(
        description="text or whole-number column that it learns; a row without a class is not learned from"
    )
    network: Literal["mlp", "conv"] = Field("mlp", description="residual perceptron; convolutions for images")
    mlp: MlpNetwork = MlpNetwork()
    conv: ConvNetwork = ConvNetwork()
    features: int = Field(64, ge=1, description="width of the last hidden layer, which samples are compared by")
    training: TrainingConfig = TrainingConfig(validation_share=0.1)

    @model_validator(mode="after")
    def _fields_go_together(self) -> ClassifierConfig:
        if self.columns is not None and self.class_column in self.columns:
            raise ValueError(f"class_column '{self.class_column}' is among the columns: it is to be learned from them")
        for name in ("mlp", "conv"):
            if name != self.network and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"[stage.{name}] goes with network = '{name}', and network is '{self.network}'")
        return self
