"""Rotary positions: the product of two turned vectors knows how far apart they stand, not where.

Su et al., RoFormer (2021), eq. 34; the pairs that turn together are (i, i + R), which permutes the dimensions of the
original and changes nothing else. Shapes: L tokens, R = half the width of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rope_table(length: int, width: int, base: float, like: Tensor) -> Tensor:
    """Cosines and sines of every position.

    Args:
        length: positions, 0 to L - 1.
        width: of a query, even.
        base: wavelengths run from 2 pi to 2 pi base.
        like: any tensor of the wanted device and dtype. Angles are computed in fp32, fp64 for fp64.

    Returns:
        [2, L, R]: cosines, sines.
    """
    exact = torch.promote_types(like.dtype, torch.float32)
    steps_R = torch.arange(0, width, 2, device=like.device, dtype=exact)
    angle_LR = torch.arange(length, device=like.device, dtype=exact).unsqueeze(1) * base ** (-steps_R / width)
    return torch.stack([angle_LR.cos(), angle_LR.sin()]).to(like.dtype)


def turn(x: Tensor, table: Tensor) -> Tensor:
    """Turn every position of x.

    Args:
        x: [..., L, 2 R].
        table: from `rope_table`, [2, L, R].
    """
    cos_LR, sin_LR = table[0], table[1]
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos_LR - b * sin_LR, b * cos_LR + a * sin_LR], dim=-1)


def grid_table(rows: int, columns: int, width: int, base: float, like: Tensor) -> Tensor:
    """The same for places of a grid: the first half of the pairs turns by the row, the other half by the column.

    Args:
        rows: 0 to rows - 1.
        columns: likewise.
        width: of a query, a multiple of 4.
        base: of the wavelengths in each direction.
        like: as in `rope_table`.

    Returns:
        [2, L, R], L places row by row.
    """
    by_row = rope_table(rows, width // 2, base, like).unsqueeze(2).expand(-1, -1, columns, -1)
    by_column = rope_table(columns, width // 2, base, like).unsqueeze(1).expand(-1, rows, -1, -1)
    return torch.cat([by_row, by_column], dim=-1).flatten(1, 2)
