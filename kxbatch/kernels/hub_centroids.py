"""Hubness reduction that looks at vectors: centring before a search, local centroids after one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.integer[Any]]
Vectors = NDArray[np.floating[Any]]


def center(x: Vectors, mean: Floats) -> Vectors:
    """Moves the origin of similarities into the middle of the data: `x - mean` (Suzuki et al. 2013).

    A row is similar to all others, and so a hub, when it points to the mean; without a mean there is nothing
    to point to. Search the result by cosine or inner product. Euclidean distances would not change.

    Args:
        x: floating point [n, d].
        mean: float64 [d], of the whole corpus (`Moments.mean`), not of this block.

    Returns:
        [n, d] in the type of `x`, subtracted in float64.
    """
    centred: Vectors = (x - mean).astype(x.dtype, copy=False)
    return centred


def accumulate_centroids(sums: Floats, indices: Indices, vectors: Vectors, first_row: int) -> None:
    """Adds the vectors of one corpus shard to the neighbour sums of a block of rows, in place.

    Call it once for every shard of the corpus, in order, with the same `sums`: memory is bounded by one block
    and one shard. Splitting the block changes nothing; the shards' order and cuts change the last bits.

    Args:
        sums: float64 [b, d], zeros before the first shard.
        indices: integer [b, k], the k nearest neighbours of the block's rows, -1 is padding.
        vectors: floating point [m, d], the shard; for the cosine metric scaled to length 1.
        first_row: row number of `vectors[0]` in the corpus.
    """
    for column in indices.T:
        local = column - first_row
        here = (column >= 0) & (local >= 0) & (local < len(vectors))
        sums[here] += vectors[local[here]]


def local_spread(vectors: Vectors, sums: Floats, indices: Indices) -> Floats:
    """Statistic of dissimlocal: `|x - c_k(x)|^2`, squared distance to the local centroid (Hara et al. 2016).

    Args:
        vectors: floating point [b, d], the block's own rows; for the cosine metric scaled to length 1.
        sums: float64 [b, d], complete.
        indices: integer [b, k], as given to `accumulate_centroids`.

    Returns:
        float64 [b, 1]; 0 for rows without neighbours.
    """
    neighbours = (indices >= 0).sum(axis=1, keepdims=True)
    offset = vectors - sums / np.maximum(neighbours, 1)
    squared = np.einsum("ij,ij->i", offset, offset)[:, None]
    return np.where(neighbours > 0, squared, 0.0)
