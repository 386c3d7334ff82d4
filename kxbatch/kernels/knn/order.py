"""An order of rows in which near rows are near, so that the first tiles already hold most of the neighbours."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from kxbatch.kernels.knn.blocks import Block
from kxbatch.kernels.knn.crew import Crew
from kxbatch.kernels.knn.frame import CHUNK, Frame, centre_rows

PIVOTS = 64


def locality_labels(blocks: tuple[Block, ...], frame: Frame, half: bool, crew: Crew) -> list[NDArray[np.int64]]:
    """The nearest of some pivots for each distinct row; pivots are numbered along their main direction.

    Any labels are right; good ones save time.

    Args:
        blocks: which share the pivots.
        frame: that the rows are seen in.
        half: multiply in bfloat16, else in float32.
        crew: does the work.

    Returns:
        `[groups]` for each block.
    """
    if max(block.distinct for block in blocks) < 16 * PIVOTS:
        return [np.zeros(block.distinct, np.int64) for block in blocks]
    pivots = _pivots(blocks[0], frame)
    offset = torch.from_numpy(-0.5 * np.square(pivots).sum(axis=1))
    dtype = torch.bfloat16 if half else torch.float32
    across = torch.from_numpy(pivots).to(dtype).t()

    def label(chunk: tuple[int, int, int]) -> NDArray[np.int64]:
        which, lo, hi = chunk
        block = blocks[which]
        rows = np.empty((hi - lo, block.x.shape[1]), np.float32)
        scale, anchor = frame.scales[which][lo:hi], frame.anchors[which][lo:hi]
        centre_rows(block.x, block.groups.first[lo:hi], scale, anchor, frame.centre, rows)
        return np.asarray((torch.mm(torch.from_numpy(rows).to(dtype), across) + offset).argmax(dim=1).numpy())

    labels = []
    for which, block in enumerate(blocks):
        edges = range(0, block.distinct, CHUNK)
        labels.append(np.concatenate(crew.map(label, [(which, a, min(a + CHUNK, block.distinct)) for a in edges])))
    return labels


def _pivots(block: Block, frame: Frame) -> NDArray[np.float32]:
    picked = np.sort(np.random.default_rng(1).permutation(block.distinct)[:PIVOTS])
    pivots = np.empty((len(picked), block.x.shape[1]), np.float32)
    scale, anchor = frame.scales[0][picked], frame.anchors[0][picked]
    centre_rows(block.x, block.groups.first[picked], scale, anchor, frame.centre, pivots)
    direction = np.linalg.svd(pivots.astype(np.float64), full_matrices=False)[2][0]
    return pivots[np.argsort(pivots @ direction)]
