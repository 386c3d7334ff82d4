"""Keys put together from parts that many of them share.

Letters: K keys, C parts of a key, T tokens of all keys.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

Tokens = NDArray[np.unsignedinteger[Any]]
Offsets = NDArray[np.int64]


@jit
def append_part(tokens: Tokens, starts: Offsets, parts: NDArray[np.int64], out: Tokens, ends: Offsets) -> None:
    """Writes one part of every key where the parts before it end.

    Args:
        tokens: of the distinct parts.
        starts: `[parts + 1]`, where each begins in them.
        parts: `[K]`, which one each key has.
        out: `[T]`, tokens of the keys.
        ends: `[K]`, where in `out` each key ends so far; moved on.
    """
    for i in range(parts.shape[0]):
        at = ends[i]
        for p in range(starts[parts[i]], starts[parts[i] + 1]):
            out[at] = tokens[p]
            at += 1
        ends[i] = at
