"""A variational autoencoder that was trained here, as a folder: `config.json` and `model.safetensors`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError
from kxbatch.models.folder_digest import folder_digest
from kxbatch.models.likelihoods import LikelihoodKind, Scale
from kxbatch.models.scaled_weights import CONFIG, WEIGHTS, packed, unpacked
from kxbatch.models.vae_config import Activation, Network, VaeArchitecture
from kxbatch.models.vae_inputs import Inputs, Transform

ARCHITECTURE = "kxbatch-density-model"
_Size = Annotated[int, Field(ge=1, le=2**24)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class _Network(_Strict):
    values: Annotated[int, Field(ge=1)]
    latent: Annotated[int, Field(ge=1)]
    shape: tuple[_Size, _Size, _Size] | None
    network: Network
    hidden: Annotated[tuple[_Size, ...], Field(min_length=1)]
    activation: Activation
    dropout: Annotated[float, Field(ge=0, lt=1)]
    likelihood: LikelihoodKind
    levels: Annotated[int, Field(ge=0)]
    scale: Scale
    scale_size: Annotated[float, Field(gt=0)]
    scale_floor: Annotated[float, Field(ge=0)]


class _Config(_Strict):
    """What `config.json` must be; anybody may have written it."""

    architecture: Literal["kxbatch-density-model"]
    columns: Annotated[tuple[str, ...], Field(min_length=1)]
    widths: tuple[_Size, ...]
    held_out: Annotated[float, Field(ge=0, lt=1)]
    nulls: Literal["refuse", "impute"]
    transform: Transform
    network: _Network

    @model_validator(mode="after")
    def _numbers_agree(self) -> _Config:
        net = self.network
        if len(self.widths) != len(self.columns) or sum(self.widths) != net.values:
            raise ValueError("columns, widths and network.values do not agree")
        if net.shape is not None and math.prod(net.shape) != net.values:
            raise ValueError("network.shape and network.values do not agree")
        if (net.likelihood == "gaussian") == (net.levels >= 2) or (net.network == "conv" and net.shape is None):
            raise ValueError("network.likelihood, levels, network and shape do not agree")
        return self


@dataclass(frozen=True)
class TrainedVae:
    """What `config.json` says.

    Attributes:
        network: the architecture.
        columns: what it was trained on, in order.
        widths: values of each column.
        held_out: share of the rows, chosen by id, that it has never learned from.
        nulls: what becomes of a null number.
        transform: how values come into the units of the model.
    """

    network: VaeArchitecture
    columns: tuple[str, ...]
    widths: tuple[int, ...]
    held_out: float
    nulls: Literal["refuse", "impute"]
    transform: Transform

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return {
            "architecture": ARCHITECTURE,
            "columns": list(self.columns),
            "widths": list(self.widths),
            "held_out": self.held_out,
            "nulls": self.nulls,
            "transform": self.transform,
            "network": self.network.to_json(),
        }

    @classmethod
    def read(cls, folder: Path) -> TrainedVae:
        """Of a folder.

        Raises:
            ConfigError: it holds no such model, or not all of it.
        """
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(
                f"'{folder}' is no trained density model: {', '.join(missing)} missing; name the `_artifact` folder of a "
                "stage of kind 'vae', or 'stage:<name>'"
            )
        try:
            found = _Config.model_validate_json((folder / CONFIG).read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "the whole"
            raise ConfigError(f"'{folder / CONFIG}': {key}: {first['msg'].removeprefix('Value error, ')}") from None
        network = VaeArchitecture(**found.network.model_dump())
        return cls(network, found.columns, found.widths, found.held_out, found.nulls, found.transform)

    def pack(self, weights: Arrays, inputs: Inputs) -> Arrays:
        """The contents of `model.safetensors`."""
        return packed(weights, inputs.centre, inputs.spread)

    def unpack(self, folder: Path) -> tuple[Arrays, Inputs]:
        """Weights by name, and the units they go with.

        Raises:
            ConfigError: the file is damaged or does not belong to `config.json`.
        """
        weights, centre, spread = unpacked(folder / WEIGHTS, self.network.values)
        return weights, Inputs(centre, spread, self.transform)


def vae_digest(folder: Path) -> str:
    """Digest of what decides its densities."""
    return folder_digest(folder, (CONFIG, WEIGHTS))
