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

Ints = npt.NDArray[np.int32]
_Hash = npt.NDArray[np.uint64]

MASKED, REPLACED = 0.8, 0.1  # shares of the chosen tokens
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_WORDS, _ACTIONS, _TOKENS = np.uint64(1), np.uint64(2), np.uint64(3)  # streams of draws of a row


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


def choose(rows: TokenRows, keys: _Hash, draw: int, share: float) -> npt.NDArray[np.bool_]:
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
    word_N = _uniform(_seeds(keys, draw, _WORDS)[rows.row_of], rows.words)
    closest_R = np.full(len(keys), np.inf)
    filled = rows.lengths > 0
    if filled.any():
        closest_R[filled] = np.minimum.reduceat(word_N, rows.starts[:-1][filled])
    chosen: npt.NDArray[np.bool_] = (word_N < share) | (word_N == closest_R[rows.row_of])
    return chosen


def replace(rows: TokenRows, chosen: npt.NDArray[np.bool_], keys: _Hash, draw: int, mask: int, ordinary: Ints) -> Ints:
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
    action = _uniform(_seeds(keys, draw, _ACTIONS)[row], place)
    other = _uniform(_seeds(keys, draw, _TOKENS)[row], place)
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


def _seeds(keys: _Hash, draw: int, stream: np.uint64) -> _Hash:
    """A starting point for each row, draw and stream [R]."""
    return _mix(_mix(keys) ^ _mix(np.array([draw]).astype(np.uint64) * np.uint64(8) + stream))


def _uniform(seeds: _Hash, places: npt.NDArray[np.signedinteger]) -> npt.NDArray[np.float64]:
    """Numbers in [0, 1), one for each seed and place, with 53 random bits."""
    mixed = _mix(seeds + (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return (mixed >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(x: _Hash) -> _Hash:
    """Finaliser of SplitMix64 (Steele, Lea and Flood 2014): every bit of the input moves half the bits of the output."""
    x = x + _GOLDEN
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
