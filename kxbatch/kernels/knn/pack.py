r"""Rows packed for the first pass, with error bounds that ride in the matrix product.

With v = scale * x, an anchor a > 0, y = v - a c and a shift kappa (0 unless all anchors are 1), the level of a pair is

    products   v_i.v_j - kappa          = y_i.y_j + a_j b_i + a_i b_j,   b = c.v - (a c.c + kappa) / 2
    distances  -|v_i - v_j|^2/2 - kappa = y_i.y_j + b_i + b_j (a = 1),   b = -(|y|^2 + kappa) / 2

A tile is the product of `left = [z, b', b'', a, a, E, T]` and `right = [z, a, a, b', b'', S, E]`, where z is y rounded to
the format of the pass, b' + b'' is b plus a doubt D in two numbers of that format, and

    E >= |y - z| + g |z|,   S >= |z|,   T >= |z| + |y - z|,   g = (d + 16) 2^-23.

|y_i.y_j - z_i.z_j| <= |y_i - z_i| |z_j| + |z_i| |y_j - z_j| + |y_i - z_i| |y_j - z_j| (Cauchy-Schwarz), the float32
accumulation of the product errs by less than g/2 times the sum of the absolute terms (Higham 2002, eq. 3.5), and D covers
what else there is: the split of b, and the float64 arithmetic here and in the exact score. So a tile element u is an upper
bound of the level, and u - 2 (E_i S_j + T_i E_j + a_j D_i + a_i D_j) a lower one (but for 2^-100, what a unit that flushes
small numbers to zero may lose); both hold for the float64 score as computed, not only for the real number. The bounds
belong to the pair: one huge row loosens its own pairs alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit
from kxbatch.kernels.knn.blocks import Block
from kxbatch.kernels.knn.compiled import GROUP, LANES, PADDING, Rows
from kxbatch.kernels.knn.crew import Crew
from kxbatch.kernels.knn.frame import CHUNK, Frame

EXTRA = 6  # columns beside the vector


@dataclass(frozen=True)
class Packed:
    """All blocks, one after the other, each padded to a multiple of `GROUP` rows.

    Attributes:
        left: `[N, d + EXTRA]` bfloat16 or float32.
        right: likewise.
        rows: for exact scores.
        allowance: `[N, 5]` float32 (E, S, T, D, a).
        spans: (start, stop of the real rows, end) of each block.
        labels: of each block, `[distinct]`, rising.
    """

    left: torch.Tensor
    right: torch.Tensor
    rows: Rows
    allowance: NDArray[np.float32]
    spans: tuple[tuple[int, int, int], ...]
    labels: tuple[NDArray[np.int64], ...]


def pack(blocks: tuple[Block, ...], frame: Frame, labels: list[NDArray[np.int64]], half: bool, crew: Crew) -> Packed:
    """Packs the distinct rows of the blocks in the order of their labels.

    Args:
        blocks: the rows.
        frame: to see them in.
        labels: `[distinct]` of each block.
        half: for a pass in bfloat16, else in float32.
        crew: does the work.

    Returns:
        The packed rows; `rows.identity` is the group of each within its block, -1 for padding.
    """
    orders = [np.argsort(one, kind="stable") for one in labels]
    spans, end = [], 0
    for block in blocks:
        start, stop = end, end + block.distinct
        end = -(-stop // GROUP) * GROUP
        spans.append((start, stop, end))
    d = blocks[0].x.shape[1]
    dtype = torch.bfloat16 if half else torch.float32
    left, right = torch.zeros(end, d + EXTRA, dtype=dtype), torch.zeros(end, d + EXTRA, dtype=dtype)
    left[:, d], right[:, d + 2] = PADDING, PADDING  # times the anchor of the other row
    x = np.zeros((end, -(-d // LANES) * LANES), np.float32)
    allowance = np.zeros((end, 5), np.float32)
    weight, identity = np.ones(end), np.full(end, -1, np.int64)

    def fill(part: tuple[int, int, int]) -> None:
        which, lo, hi = part
        block, group = blocks[which], orders[which][lo:hi]
        at = slice(spans[which][0] + lo, spans[which][0] + hi)
        weight[at], identity[at] = block.weight[group], group
        near, tail = np.empty((hi - lo, d + EXTRA), np.float32), np.empty((hi - lo, EXTRA), np.float32)
        x[at, :d] = block.x[block.groups.first[group]]
        scale, anchor = frame.scales[which][group], frame.anchors[which][group]
        _pack_rows(x[at], scale, anchor, frame.centre, frame.shift, frame.euclidean, half, near, tail, allowance[at])
        left[at] = torch.from_numpy(near)
        right[at] = left[at]
        right[at, d:] = torch.from_numpy(tail)

    sizes = [block.distinct for block in blocks]
    crew.map(fill, [(w, a, min(a + CHUNK, n)) for w, n in enumerate(sizes) for a in range(0, n, CHUNK)])
    rows = Rows(x.reshape(end, -1, LANES), weight, identity, frame.euclidean, frame.factor, frame.shift)
    ordered = tuple(one[order] for one, order in zip(labels, orders, strict=True))
    return Packed(left, right, rows, allowance, tuple(spans), ordered)


@jit
def _nearest(value: float, half: bool) -> float:
    """Nearest float32, or bfloat16."""
    single = np.float32(value)
    if half:
        bits = single.view(np.uint32)
        bits += np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        single = np.uint32(bits & np.uint32(0xFFFF0000)).view(np.float32)
    return np.float64(single)


@jit
def _not_below(value: float, half: bool) -> float:
    """A float32, or bfloat16, that is at least `value` >= 0 and hardly more."""
    single = np.float32(value * (1.0 + 2.0**-22))
    if half:
        single = np.uint32((single.view(np.uint32) + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)
    return np.float64(single)


@jit
def _pack_rows(
    x: NDArray[np.float32],
    scale: NDArray[np.float64],
    anchor: NDArray[np.float64],
    centre: NDArray[np.float64],
    shift: float,
    euclidean: bool,
    half: bool,
    left: NDArray[np.float32],
    tail: NDArray[np.float32],
    allowance: NDArray[np.float32],
) -> None:
    """Fills rows of `left`, the last `EXTRA` columns of `right`, and the allowances; the module explains the letters."""
    d = centre.shape[0]
    g = (d + 16) * 2.0**-23
    cc = 0.0
    for q in range(d):
        cc += centre[q] * centre[q]
    for r in range(x.shape[0]):
        a = anchor[r]
        off = zz = cv = vv = yy = 0.0
        for q in range(d):
            v = np.float64(x[r, q]) * scale[r]
            y = v - a * centre[q]
            z = _nearest(y, half)
            left[r, q] = z
            off += (y - z) * (y - z)
            zz += z * z
            cv += centre[q] * v
            vv += v * v
            yy += y * y
        gap, size = np.sqrt(off) + 2.0**-50 * (np.sqrt(vv) + a * np.sqrt(cc)), np.sqrt(zz)
        b = -0.5 * (yy + shift) if euclidean else cv - 0.5 * (a * cc + shift)
        arithmetic = (d + 16) * 2.0**-51 * ((yy if euclidean else vv / a + a * cc) + abs(shift))
        doubt = arithmetic + (g + (2.0**-15 if half else 2.0**-40)) * abs(b)
        high = _nearest(b + doubt, half)
        low = _nearest(b + doubt - high, half)
        e, s, t = _not_below(gap + g * size, half), _not_below(size, half), _not_below(size + gap, half)
        for q, value in enumerate((high, low, a, a, e, t)):
            left[r, d + q] = value
        for q, value in enumerate((a, a, high, low, s, e)):
            tail[r, q] = value
        for q, value in enumerate((e, s, t, _not_below(doubt, False), a)):
            allowance[r, q] = value
