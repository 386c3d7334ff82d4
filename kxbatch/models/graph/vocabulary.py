"""Which characters a graph is written in."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kxbatch.kernels.characters import count_characters
from kxbatch.models.graph.character_vocabulary import CODE_POINTS
from kxbatch.models.graph.strings import to_flat


def count_pools(pools: Iterable[pa.Array]) -> NDArray[np.int64]:
    """How often each code point occurs in distinct strings, int64 [0x110000]."""
    counts = np.zeros(CODE_POINTS, np.int64)
    for pool in pools:
        count_characters(to_flat(pool)[0], counts)
    return counts
