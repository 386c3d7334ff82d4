"""The frame a first pass sees the rows in: scaled, centred and shifted, so that its few bits lie where they count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit
from kxbatch.kernels.knn.blocks import Block
from kxbatch.kernels.knn.neighbors import Metric

ANCHORS = 2.0**-9, 2.0**20  # their range: times the padding it stays below every level, and finite
CHUNK = 2048  # rows a task
SAMPLE = 4096  # rows that the centre and the shift are estimated from; any value of them is right, a good one is fast


@dataclass(frozen=True)
class Frame:
    """Row i becomes `scale_i x_i - anchor_i centre`; levels are `factor * score - shift`, see `compiled.Rows`.

    Attributes:
        euclidean: levels are minus half squared distances, else products.
        scales: per block `[groups]` float64: inverse norms under the cosine, else one power of two for all.
        anchors: per block `[groups]` float64, exact in bfloat16: ones, or about the norms where these differ widely.
        centre: `[d]` float64.
        shift: a typical k-th best level, so that levels near it are small numbers.
        factor: square of the power of two, 1 under the cosine.
    """

    euclidean: bool
    scales: tuple[NDArray[np.float64], ...]
    anchors: tuple[NDArray[np.float64], ...]
    centre: NDArray[np.float64]
    shift: float
    factor: float


def choose_frame(blocks: tuple[Block, ...], k: int, metric: Metric) -> Frame:
    """Chooses the frame of a search.

    Args:
        blocks: the rows, and what they are searched in if that is another block.
        k: neighbours wanted.
        metric: the score.

    Returns:
        The frame.
    """
    unit = 1.0
    if metric != "cosine":
        peak = max(max(float(block.x.max()), -float(block.x.min())) for block in blocks)
        unit = 2.0 ** -np.ceil(np.log2(peak)) if peak else 1.0
    scales = tuple(block.weight * unit for block in blocks)
    anchors = _anchors(blocks, unit) if metric == "inner" else None
    samples, ratios = [], []
    for which, block in enumerate(blocks):
        picked = np.random.default_rng(0).permutation(block.distinct)[:SAMPLE]
        samples.append(block.x[block.groups.first[picked]] * scales[which][picked, None])
        ratios.append(np.ones(len(picked)) if anchors is None else anchors[which][picked])
    centre = _centre(np.concatenate(samples) / np.concatenate(ratios)[:, None])
    shift = 0.0
    if anchors is None:  # otherwise levels differ in size as the anchors do
        shift = _typical_level(samples[0][:64], samples[-1], k / blocks[-1].distinct, metric == "euclidean")
        anchors = tuple(np.ones(block.distinct) for block in blocks)
    return Frame(metric == "euclidean", scales, anchors, centre, shift, unit * unit)


def _anchors(blocks: tuple[Block, ...], unit: float) -> tuple[NDArray[np.float64], ...] | None:
    """Norms as multiples of a typical one, cut to the precision of bfloat16; None where they differ little."""
    norms = [np.sqrt(block.own_score) * unit for block in blocks]
    low, middle, high = np.quantile(np.concatenate(norms), [0.1, 0.5, 0.9])
    if high <= 2.0 * low or middle == 0.0:
        return None
    ratios = [np.clip(norm / middle, *ANCHORS).astype(np.float32) for norm in norms]
    return tuple((ratio.view(np.uint32) & 0xFFFF0000).view(np.float32).astype(np.float64) for ratio in ratios)


def _centre(v: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of the rows, none counting for more than twice the median norm: one huge row must not move it."""
    norms = np.sqrt(np.einsum("id,id->i", v, v))
    limit = 2.0 * float(np.median(norms))
    return np.asarray((v * np.minimum(1.0, limit / np.maximum(norms, 2.0**-500))[:, None]).mean(axis=0))


def _typical_level(queries: NDArray[np.float64], corpus: NDArray[np.float64], share: float, euclidean: bool) -> float:
    levels = queries @ corpus.T
    if euclidean:
        levels -= 0.5 * (np.square(queries).sum(axis=1)[:, None] + np.square(corpus).sum(axis=1))
    return float(np.median(np.quantile(levels, 1.0 - min(1.0, share), axis=1)))


@jit
def centre_rows(
    x: NDArray[np.float32],
    source: NDArray[np.int64],
    scale: NDArray[np.float64],
    anchor: NDArray[np.float64],
    centre: NDArray[np.float64],
    out: NDArray[np.float32],
) -> None:
    """Scaled and centred rows.

    Args:
        x: `[n, d]`.
        source: `[m]` rows of `x`.
        scale: `[m]` of these rows.
        anchor: `[m]` of these rows.
        centre: `[d]`.
        out: `[m, d]`, receives the result.
    """
    for r in range(source.shape[0]):
        for q in range(x.shape[1]):
            out[r, q] = np.float64(x[source[r], q]) * scale[r] - anchor[r] * centre[q]
