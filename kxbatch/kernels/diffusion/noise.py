"""Noise that belongs to a sample for ever: a function of seed, sample and time, whoever draws it and beside whom.

The generator is Philox-4x64 (Salmon et al. 2011), which has no state to pass on: the key is (seed, sample), the highest word of
the counter is the time, so every draw has 2^192 blocks to itself. Normal numbers come from numpy's ziggurat, which compares and
multiplies but takes no logarithm or cosine on its usual path, so that processors with other vector units do not round otherwise.

Letters: B samples, D the values of a sample in whatever shape.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kxbatch.errors import ConfigError

START = 0  # no step starts from time 0, so its noise is free to be x_T, whichever times are stepped through


class RowNoise:
    """Standard normal noise of a batch of samples.

    Args:
        seed: 0 to 2^64 - 1.
        keys_B: uint64 [B], or whole numbers from 0 up: what samples are called. Names go through a 64-bit hash first.

    Raises:
        ConfigError: the seed or a key is out of range.
    """

    def __init__(self, seed: int, keys_B: NDArray[np.uint64] | Sequence[int]) -> None:
        if not 0 <= seed < 2**64:
            raise ConfigError(f"seed {seed} is out of range: seeds go from 0 to 2^64 - 1")
        try:
            self._keys_B = np.array([operator.index(key) for key in keys_B], np.uint64)
        except OverflowError as wrong:
            raise ConfigError("the number of a sample is out of range: they go from 0 to 2^64 - 1") from wrong
        self._seed = seed

    def __len__(self) -> int:
        return len(self._keys_B)

    def draw(
        self, t: int, shape: Sequence[int], dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> Tensor:
        """Noise of all samples at a time.

        Args:
            t: the time the step starts from, or `START` for x_T.
            shape: of one sample.
            dtype: what the noise is rounded to; it is drawn in float64, so all types have the same noise.
            device: where it goes; it is drawn on the CPU, so all devices have the same noise.

        Returns:
            [B, *shape].
        """
        drawn_BD = np.empty((len(self), math.prod(shape)))
        bits = np.random.Philox(key=0)
        state, generator = bits.state, np.random.Generator(bits)
        state["state"]["counter"][:] = (0, 0, 0, t)
        for row_D, key in zip(drawn_BD, self._keys_B, strict=True):
            state["state"]["key"][:] = (self._seed, key)
            bits.state = state  # also forgets what was left over from the row before
            generator.standard_normal(out=row_D)
        return torch.from_numpy(drawn_BD).to(dtype).to(device).reshape(len(self), *shape)
