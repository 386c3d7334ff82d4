"""Logits of a few tokens only: products of states with the vectors of those tokens.

Letters: R rows, A (row, token) pairs, D width, U distinct tokens among the pairs, V vocabulary.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Numbers = NDArray[np.int64]

GATHER_COST = 40  # a gathered float against one multiply-add of a matrix product; measured on a CPU
CHUNK = 2**22  # numbers made at a time


def logits_at(states_RD: Tensor, weight_VD: Tensor, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
    """Logits of pairs.

    Pair by pair where there are few; by one matrix product over the distinct tokens where most rows want most of them,
    as at the root of a trie.

    Args:
        states_RD: last states.
        weight_VD: the output matrix.
        rows: int64 [A], not falling.
        tokens: int64 [A].

    Returns:
        float32 [A].
    """
    present = np.zeros(len(weight_VD), bool)
    present[tokens] = True
    distinct = np.flatnonzero(present)
    distinct_rows = 1 + np.count_nonzero(np.diff(rows))
    if len(tokens) * GATHER_COST <= len(distinct) * distinct_rows:
        return _pairwise(states_RD, weight_VD, rows, tokens)
    weight_UD = weight_VD.index_select(0, _on(weight_VD, distinct))
    return _by_product(states_RD, weight_UD, rows, (np.cumsum(present) - 1)[tokens])


def log_normalizers(states_RD: Tensor, weight_VD: Tensor) -> NDArray[np.float64]:
    """Float64 [R]: log-sum-exp of all logits of each row."""
    size = max(1, CHUNK // len(weight_VD))
    parts = [F.linear(part_RD, weight_VD).float().logsumexp(dim=1) for part_RD in torch.split(states_RD, size)]
    found: NDArray[np.float64] = torch.cat(parts).double().cpu().numpy()
    return found


def _pairwise(states_RD: Tensor, weight_VD: Tensor, rows: Numbers, tokens: Numbers) -> NDArray[np.float32]:
    out, size = np.empty(len(rows), np.float32), max(1, CHUNK // states_RD.shape[1])
    for at in range(0, len(rows), size):
        part = slice(at, at + size)
        states_AD = states_RD.index_select(0, _on(states_RD, rows[part]))
        weight_AD = weight_VD.index_select(0, _on(weight_VD, tokens[part]))
        out[part] = torch.linalg.vecdot(states_AD, weight_AD).float().cpu().numpy()
    return out


def _by_product(states_RD: Tensor, weight_UD: Tensor, rows: Numbers, columns: Numbers) -> NDArray[np.float32]:
    out, size = np.empty(len(rows), np.float32), max(1, CHUNK // len(weight_UD))
    for first in range(0, len(states_RD), size):
        begin, end = np.searchsorted(rows, [first, first + size])
        if begin < end:
            made_RU = F.linear(states_RD[first : first + size], weight_UD).float().cpu().numpy()
            out[begin:end] = made_RU[rows[begin:end] - first, columns[begin:end]]
    return out


def _on(like: Tensor, numbers: Numbers) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(numbers)).to(like.device)
