"""Which tokens a masked language model has to guess, and what it sees in their place.

Devlin et al., BERT (2019), with whole words (Cui et al. 2019): words are chosen, all tokens of a word together. Of the chosen
tokens 80 % become `[MASK]`, 10 % any ordinary token, 10 % stay. Every draw is a hash of the row's key, the number of the draw
and the place in the row, so a row is masked in the same way whatever rows it meets and whoever masks it.

Letters: R rows, N tokens of all rows one after another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kxbatch.data.row_draws import Keys, seeds, uniform

Ints = npt.NDArray[np.int32]

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens
_WORDS, _ACTIONS, _TOKENS = 1, 2, 3  # streams of draws of a row


@dataclass(frozen=True)
class TokenRows:
    """Tokens of R rows, without special ones.

    Attributes:
        tokens: int32 [N], ids.
        words: int32 [N], number of each token's word within its row; never falling within a row.
        starts: int64 [R + 1]; row r has `tokens[starts[r]:starts[r + 1]]`.
    """

    tokens: Ints
    words: Ints
    starts: npt.NDArray[np.int64]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row [R]."""
        return np.diff(self.starts)

    @property
    def row_of(self) -> npt.NDArray[np.int64]:
        """Row of each token [N]."""
        return np.repeat(np.arange(len(self.starts) - 1), self.lengths)

    @property
    def place(self) -> npt.NDArray[np.int64]:
        """Place of each token in its row [N]."""
        return np.arange(len(self.tokens)) - self.starts[self.row_of]


def choose(rows: TokenRows, keys: Keys, draw: int, share: float) -> npt.NDArray[np.bool_]:
    """Tokens to be guessed.

    Every word is chosen with probability `share`, independently; of a row in which none is, the word that came closest. So
    a row with any token has something to guess, and short rows a little more than their share.

    Args:
        rows: the tokens.
        keys: uint64 [R], a number that belongs to the row.
        draw: another draw chooses others.
        share: probability of a word.

    Returns:
        bool [N].
    """
    word_N = uniform(seeds(keys, draw, _WORDS)[rows.row_of], rows.words)
    closest_R = np.full(len(keys), np.inf)
    filled = rows.lengths > 0
    if filled.any():
        closest_R[filled] = np.minimum.reduceat(word_N, rows.starts[:-1][filled])
    chosen: npt.NDArray[np.bool_] = (word_N < share) | (word_N == closest_R[rows.row_of])
    return chosen


def replace(rows: TokenRows, chosen: npt.NDArray[np.bool_], keys: Keys, draw: int, mask: int, ordinary: Ints) -> Ints:
    """What the model sees: tokens with the chosen ones masked, replaced or left.

    Args:
        rows: the tokens.
        chosen: bool [N], see `choose`.
        keys: uint64 [R].
        draw: as in `choose`.
        mask: id of the mask token.
        ordinary: ids a token may be replaced by.

    Returns:
        int32 [N].
    """
    places = np.flatnonzero(chosen)
    row, place = rows.row_of[places], rows.place[places]
    action = uniform(seeds(keys, draw, _ACTIONS)[row], place)
    other = uniform(seeds(keys, draw, _TOKENS)[row], place)
    replaced = ordinary[(other * len(ordinary)).astype(np.int64)]
    kept = rows.tokens[places]
    seen = rows.tokens.copy()
    seen[places] = np.where(action < MASKED, mask, np.where(action < MASKED + REPLACED, replaced, kept))
    return seen


def joined_words(words: Ints, offsets: npt.NDArray[np.int64], segments: npt.NDArray[np.int64]) -> Ints:
    """Words of a text's tokens, joined where a segmenter says so; no token is cut.

    Tokens are of one word if the tokenizer says so or if they touch the same segment. A segmenter for Chinese joins
    characters, which are words of their own to the tokenizer; what it makes of other scripts joins nothing.

    Args:
        words: int32 [n], the tokenizer's words, never falling.
        offsets: int64 [n, 2], first and past-the-last character of each token.
        segments: int64, past-the-last character of each segment, ascending.

    Returns:
        int32 [n], numbers of words, from 0, never falling.
    """
    if not len(words):
        return words
    first = np.searchsorted(segments, offsets[:, 0], side="right")
    last = np.searchsorted(segments, np.maximum(offsets[:, 1] - 1, offsets[:, 0]), side="right")
    starts = (np.diff(words) > 0) & (first[1:] > np.maximum.accumulate(last)[:-1])
    return np.concatenate([[0], np.cumsum(starts)]).astype(np.int32)
