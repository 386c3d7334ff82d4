"""Texts to tokens with their offsets, and pieces of them to the sequences an encoder reads: `[CLS] piece [SEP]`.

Letters: R texts, N tokens of all texts one after another, B sequences, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kxbatch.models.extraction.alignment import TokenOffsets
from kxbatch.models.tokenization import FRAME, FastTokenizer

Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
BEFORE = 1  # special tokens before a piece


@dataclass(frozen=True)
class Tokenized:
    """R texts.

    Attributes:
        ids: int32 [N].
        offsets: where they stand.
    """

    ids: npt.NDArray[np.int32]
    offsets: TokenOffsets

    @property
    def lengths(self) -> Longs:
        """Tokens of each text, int64 [R]."""
        return np.diff(self.offsets.rows)


@dataclass(frozen=True)
class Framed:
    """A batch.

    Attributes:
        ids: int64 [B, L], padded on the right.
        valid: bool [B, L], what is no padding.
        inner: bool [B, L], what is neither padding nor special: where spans may begin and end.
    """

    ids: Longs
    valid: Bools
    inner: Bools


def tokenize(tokenizer: FastTokenizer, texts: Sequence[str]) -> Tokenized:
    """Tokens of texts, without special ones; none is cut."""
    encodings = tokenizer.backend.encode_batch(list(texts), add_special_tokens=False)
    ids = np.fromiter((number for found in encodings for number in found.ids), np.int32)
    return Tokenized(ids, TokenOffsets.of(texts, encodings))


def framed(pieces: Sequence[npt.NDArray[np.int32]], special: dict[str, int]) -> Framed:
    """One sequence for each piece of tokens."""
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    place_L = np.arange(int(lengths.max(initial=0)) + FRAME)
    valid, before_end = place_L < lengths[:, None] + FRAME, place_L < lengths[:, None] + BEFORE
    inner = before_end & (place_L >= BEFORE)
    ids = np.full(valid.shape, special["pad"], np.int64)
    ids[:, 0] = special["cls"]
    ids[valid & ~before_end] = special["sep"]
    if len(pieces):
        ids[inner] = np.concatenate(pieces)
    return Framed(ids, valid, inner)
