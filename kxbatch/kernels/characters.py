"""Texts to tokens where a token is a character, or a byte of a character that has none.

Letters: N texts, B bytes of all texts, T tokens of all texts, at most B.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit

Offsets = NDArray[np.int64]


@jit
def encode_characters(
    letters: NDArray[np.uint8],
    starts: Offsets,
    of_character: NDArray[np.int32],
    of_byte: NDArray[np.int32],
    tokens: NDArray[np.unsignedinteger[Any]],
    token_starts: Offsets,
) -> int:
    """Looks up every character of UTF-8 texts; one without a token becomes its bytes.

    Args:
        letters: `[B]`, valid UTF-8.
        starts: `[N + 1]`, where texts begin in it and the last one ends.
        of_character: `[0x110000]`, the token of each code point, or -1.
        of_byte: `[256]`, the token of each byte.
        tokens: `[B]`, receives the tokens of all texts.
        token_starts: `[N + 1]`, receives where those of each text begin.

    Returns:
        T.
    """
    out = 0
    for i in range(starts.shape[0] - 1):
        token_starts[i] = out
        at = starts[i]
        while at < starts[i + 1]:
            lead = np.int64(letters[at])
            size, code = 1, lead
            if lead >= 0xF0:
                size, code = 4, lead & 0x07
            elif lead >= 0xE0:
                size, code = 3, lead & 0x0F
            elif lead >= 0xC0:
                size, code = 2, lead & 0x1F
            for p in range(at + 1, at + size):
                code = (code << 6) | (np.int64(letters[p]) & 0x3F)
            if of_character[code] >= 0:
                tokens[out] = of_character[code]
                out += 1
            else:
                for p in range(at, at + size):
                    tokens[out] = of_byte[letters[p]]
                    out += 1
            at += size
    token_starts[starts.shape[0] - 1] = out
    return out


@jit
def count_characters(letters: NDArray[np.uint8], counts: Offsets) -> None:
    """Adds how often each code point occurs in UTF-8 letters `[B]` to `counts` `[0x110000]`."""
    at = 0
    while at < letters.shape[0]:
        lead = np.int64(letters[at])
        size, code = 1, lead
        if lead >= 0xF0:
            size, code = 4, lead & 0x07
        elif lead >= 0xE0:
            size, code = 3, lead & 0x0F
        elif lead >= 0xC0:
            size, code = 2, lead & 0x1F
        for p in range(at + 1, at + size):
            code = (code << 6) | (np.int64(letters[p]) & 0x3F)
        counts[code] += 1
        at += size
