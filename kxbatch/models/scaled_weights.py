"""Weights of a network in one file with the units of the data it was trained on: what trained models of numbers have in common.

D values of a row.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import nn

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError

Floats = npt.NDArray[np.float64]
NetworkT = TypeVar("NetworkT", bound=nn.Module)

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_CENTRE, _SPREAD = "inputs.centre", "inputs.spread"  # beside the weights


def packed(weights: Arrays, centre: Floats, spread: Floats) -> Arrays:
    """The contents of a file of weights; `centre` and `spread` are float64 [D]."""
    return weights | {_CENTRE: centre, _SPREAD: spread}


def unpacked(file: Path, values: int) -> tuple[Arrays, Floats, Floats]:
    """Weights by name, centre and spread.

    Args:
        file: of weights.
        values: D.

    Raises:
        ConfigError: it is damaged, or of a model of another size.
    """
    try:
        arrays = dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"'{file}' cannot be read: {error}") from error
    centre, spread = (arrays.pop(name, np.empty(0)) for name in (_CENTRE, _SPREAD))
    shape = (values,)
    if centre.shape != shape or spread.shape != shape or not np.isfinite(centre).all() or not (spread > 0).all():
        raise ConfigError(f"'{file}' does not belong to the {CONFIG} beside it")
    return arrays, centre, spread


def filled(make: Callable[[], NetworkT], weights: Arrays, file: Path) -> NetworkT:
    """A network with its weights, in evaluation mode; nothing is allocated before all shapes are known to fit.

    Args:
        make: the network.
        weights: by name.
        file: they are of, for errors.

    Raises:
        ConfigError: they are not of this network.
    """
    with torch.device("meta"):
        network = make()
    try:
        network.load_state_dict({name: torch.from_numpy(array) for name, array in weights.items()}, assign=True)
    except RuntimeError as error:
        raise ConfigError(f"'{file}' does not belong to the {CONFIG} beside it: {error}") from None
    return network.eval()
