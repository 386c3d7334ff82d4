"""A variational autoencoder that was trained here, as a folder: `config.json` and `model.safetensors`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError
from kxbatch.models.vae_config import VaeArchitecture
from kxbatch.models.vae_inputs import Inputs, Transform

WEIGHTS, CONFIG = "model.safetensors", "config.json"
ARCHITECTURE = "kxbatch-density-model"
_CENTRE, _SPREAD = "inputs.centre", "inputs.spread"  # beside the weights


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
            found = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if found["architecture"] != ARCHITECTURE:
                raise ConfigError(f"architecture '{found['architecture']}'; a density model says '{ARCHITECTURE}'")
            network = VaeArchitecture.from_json(found["network"])
            columns, widths = tuple(map(str, found["columns"])), tuple(map(int, found["widths"]))
            for name, allowed in (("nulls", ("refuse", "impute")), ("transform", get_args(Transform))):
                if found[name] not in allowed:
                    raise ConfigError(f"{name} = {found[name]!r}; allowed: {', '.join(allowed)}")
            return cls(network, columns, widths, float(found["held_out"]), found["nulls"], found["transform"])
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"'{folder / CONFIG}': not as it was written: {error!r}") from error
        except ConfigError as error:
            raise ConfigError(f"'{folder / CONFIG}': {error}") from None

    def pack(self, weights: Arrays, inputs: Inputs) -> Arrays:
        """The contents of `model.safetensors`."""
        return weights | {_CENTRE: inputs.centre, _SPREAD: inputs.spread}

    def unpack(self, folder: Path) -> tuple[Arrays, Inputs]:
        """Weights by name, and the units they go with.

        Raises:
            ConfigError: the file is damaged or does not belong to `config.json`.
        """
        try:
            arrays = dict(load_file(folder / WEIGHTS))
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"'{folder / WEIGHTS}' cannot be read: {error}") from error
        centre, spread = (arrays.pop(name, np.empty(0)) for name in (_CENTRE, _SPREAD))
        if len(centre) != self.network.values or len(spread) != self.network.values:
            raise ConfigError(f"'{folder}': {CONFIG} and {WEIGHTS} do not belong together")
        return arrays, Inputs(centre, spread, self.transform)


def vae_digest(folder: Path) -> str:
    """Digest of what decides its densities."""
    whole = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        with (folder / name).open("rb") as file:
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()
