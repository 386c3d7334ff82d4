"""Rows of tokens to the sequences a model reads: one a row, padded; or all joined and cut, so that nothing is padding.

Letters: B sequences, L tokens of the longest, N tokens of all rows, M tokens to be guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kxbatch.models.masking import Ints, TokenRows

_Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Frame:
    """Ids of the special tokens of a sequence."""

    pad: int
    cls: int
    sep: int


@dataclass(frozen=True)
class Sequences:
    """A batch.

    Attributes:
        ids: int64 [B, L], padded on the right.
        lengths: int64 [B].
        positions: int64 [M], places `b * L + l` of the tokens to be guessed, ascending.
        labels: int64 [M], these tokens.
    """

    ids: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]


def one_a_row(rows: TokenRows, seen: Ints, chosen: npt.NDArray[np.bool_], frame: Frame) -> Sequences:
    """`[CLS] row [SEP]`, as long as the longest.

    Args:
        rows: the tokens.
        seen: int32 [N], what the model sees in their place.
        chosen: bool [N], which are to be guessed.
        frame: special tokens.
    """
    lengths = rows.lengths + 2
    ids = np.full((len(lengths), int(lengths.max())), frame.pad, np.int64)
    ids[:, 0] = frame.cls
    ids[np.arange(len(ids)), lengths - 1] = frame.sep
    places = rows.row_of * ids.shape[1] + 1 + rows.place
    return _filled(ids, lengths, places, rows, seen, chosen)


def joined(rows: TokenRows, seen: Ints, chosen: npt.NDArray[np.bool_], frame: Frame, length: int) -> Sequences:
    """All rows one after another, `[SEP]` after each, cut into `[CLS]` and `length - 1` tokens; the last may be shorter.

    Args:
        rows: the tokens.
        seen: int32 [N], what the model sees in their place.
        chosen: bool [N], which are to be guessed.
        frame: special tokens.
        length: tokens of a sequence, at least 2.
    """
    step = length - 1
    stream = len(rows.tokens) + len(rows.lengths)
    count = -(-stream // step)
    lengths = np.full(count, length, np.int64)
    lengths[-1] = stream - (count - 1) * step + 1
    ids = np.full((count, int(lengths.max())), frame.pad, np.int64)
    ids[:, 0] = frame.cls
    width = ids.shape[1]
    ids.flat[_cut(rows.starts[1:] + np.arange(len(rows.lengths)), step, width)] = frame.sep
    places = _cut(np.arange(len(rows.tokens)) + rows.row_of, step, width)
    return _filled(ids, lengths, places, rows, seen, chosen)


def _cut(stream: _Places, step: int, width: int) -> _Places:
    """Places in the stream to places in `[B, L]`."""
    return stream // step * width + 1 + stream % step


def _filled(
    ids: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    places: _Places,
    rows: TokenRows,
    seen: Ints,
    chosen: npt.NDArray[np.bool_],
) -> Sequences:
    ids.flat[places] = seen
    return Sequences(ids, lengths, places[chosen], rows.tokens[chosen].astype(np.int64))
