"""Length of the longest common subsequence, many texts against their questions.

Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): bit i of a row V is 0 where the length rises at
token i of the question; a token of the text with matches M turns V into `(V + (V & M)) | (V & ~M)`, and at the end the zeros
are counted. 64 tokens of the question are worked on at once.

Letters: Q questions, N texts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.jit import jit
from kxbatch.kernels.trie.keys import Keys, Tokens, frozen

Numbers = NDArray[np.int64]


def lcs_lengths(questions: Keys, texts: Keys, question_of: Numbers) -> Numbers:
    """Lengths of the longest common subsequences of texts and questions, in tokens.

    Args:
        questions: Q token sequences.
        texts: N token sequences, such as `Completions.keys`.
        question_of: int64 [N], the question of each text; fastest where texts of one question stand together.

    Returns:
        int64 [N]. 0 where either is empty.

    Raises:
        DataError: `question_of` has another length, or names a question that is not there.
    """
    if len(question_of) != len(texts):
        raise DataError(f"{len(texts)} texts, but question_of has {len(question_of)} entries: one for each text")
    if len(texts) and not 0 <= question_of.min() <= question_of.max() < len(questions):
        raise DataError(
            f"question_of names {question_of.min()} to {question_of.max()}, there are questions 0 to {len(questions) - 1}"
        )
    out = np.zeros(len(texts), np.int64)
    longest = int(questions.lengths.max(initial=0))
    slot = np.zeros(int(questions.tokens.max(initial=0)) + 1, np.int64)
    matches = np.zeros((longest + 1, longest // 64 + 1), np.uint64)
    _lengths(
        questions.tokens,
        questions.starts,
        texts.tokens,
        texts.starts,
        frozen(question_of, np.int64),
        slot,
        matches,
        out,
    )
    return out


@jit
def _lengths(
    q_tokens: Tokens,
    q_starts: Numbers,
    tokens: Tokens,
    starts: Numbers,
    question_of: Numbers,
    slot: Numbers,
    matches: NDArray[np.uint64],
    out: Numbers,
) -> None:
    """Fills `out`.

    Args:
        q_tokens: of the questions.
        q_starts: `[Q + 1]`.
        tokens: of the texts.
        starts: `[N + 1]`.
        question_of: `[N]`.
        slot: zeros, for every token up to the largest of a question; the row of each in `matches`, 0 for strangers.
        matches: zeros, a row for each distinct token of a question and one for all others; 64 places a word.
        out: `[N]`, receives the lengths.
    """
    question = np.int64(-1)
    begin, end, words = np.int64(0), np.int64(0), np.int64(0)
    v = np.empty(matches.shape[1], np.uint64)
    for i in range(out.shape[0]):
        if question_of[i] != question:
            for p in range(begin, end):
                slot[q_tokens[p]] = 0
            question = question_of[i]
            begin, end, used = q_starts[question], q_starts[question + 1], 0
            words = (end - begin + 63) // 64
            for p in range(begin, end):
                row = slot[q_tokens[p]]
                if row == 0:
                    used += 1
                    slot[q_tokens[p]] = row = used
                    matches[row, :words] = 0
                place = p - begin
                matches[row, place >> 6] |= np.uint64(1) << np.uint64(place & 63)
        v[:words] = ~np.uint64(0)
        for p in range(starts[i], starts[i + 1]):
            if tokens[p] >= slot.shape[0] or slot[tokens[p]] == 0:
                continue
            row, carry = slot[tokens[p]], np.uint64(0)
            for w in range(words):
                hit = v[w] & matches[row, w]
                total = v[w] + hit
                over = np.uint64(total < hit)
                total += carry
                carry = over | np.uint64(total < carry)
                v[w] = total | (v[w] & ~matches[row, w])
        for w in range(words):
            zeros = ~v[w]
            while zeros:  # a text has few tokens, so few bits are set
                zeros &= zeros - np.uint64(1)
                out[i] += 1
