"""Length of the longest common subsequence, or of the longest common run, many texts against their questions.

Bit-parallel (Hyyrö 2004, "Bit-parallel LCS-length computation revisited"): bit i of a row V is 0 where the length rises at
token i of the question; a token of the text with matches M turns V into `(V + (V & M)) | (V & ~M)`, and at the end the zeros
are counted. 64 tokens of the question are worked on at once.

Down a tree of texts, a row belongs to a node and is made from that of its parent.

Letters: Q questions, N texts, T distinct tokens of each question, W words of a row, F nodes, A children of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.jit import jit
from kxbatch.kernels.trie.keys import Keys, Tokens, frozen

Numbers = NDArray[np.int64]
Words = NDArray[np.uint64]
Integer = Any  # of any width in compiled code


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


def common_runs(questions: Keys, texts: Keys, question_of: Numbers) -> tuple[Numbers, Numbers]:
    """The longest runs of tokens that texts and questions share, that is, their longest common substrings.

    Args:
        questions: Q token sequences.
        texts: N token sequences.
        question_of: int64 [N], the question of each text.

    Returns:
        int64 [N] lengths, 0 where either is empty; and int64 [N], where in its question each begins. Of a text that stands in
        its question as a whole that is the first place.
    """
    out, at = np.zeros(len(texts), np.int64), np.zeros(len(texts), np.int64)
    _runs(questions.tokens, questions.starts, texts.tokens, texts.starts, frozen(question_of, np.int64), out, at)
    return out, at


@dataclass(frozen=True, eq=False)
class Matches:
    """Where the tokens of questions stand in them, for rows that go down trees.

    Attributes:
        tokens: int64, the distinct tokens of each question, rising.
        starts: int64 [Q + 1] into them.
        hits: uint64 [all of them, W], bit i: token i of the question is this one.
    """

    tokens: Numbers
    starts: Numbers
    hits: Words

    @classmethod
    def of(cls, questions: Keys) -> Matches:
        """Looks through questions once."""
        lengths = questions.lengths
        question = np.repeat(np.arange(len(questions)), lengths)
        place = np.arange(len(question)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        said = questions.tokens[questions.starts[0] : questions.starts[-1]].astype(np.int64)
        pairs, row = np.unique(question << 32 | said, return_inverse=True)
        hits = np.zeros((len(pairs), int(lengths.max(initial=0)) // 64 + 1), np.uint64)
        np.bitwise_or.at(hits, (row, place >> 6), np.uint64(1) << (place & 63).astype(np.uint64))
        starts = np.searchsorted(pairs >> 32, np.arange(len(questions) + 1))
        return cls(frozen(pairs & (2**32 - 1)), frozen(starts, np.int64), frozen(hits))

    def start(self, nodes: int) -> Words:
        """Rows [nodes, W] of no text at all."""
        return np.full((nodes, self.hits.shape[1]), ~np.uint64(0))

    def descend(self, rows: Words, question_of: Numbers, tokens: Numbers, offsets: Numbers) -> tuple[Words, Numbers]:
        """From nodes to their children.

        Args:
            rows: uint64 [F, W], of the nodes.
            question_of: int64 [F], the question of each.
            tokens: int64 [A], with which the children go on; -1 for one that adds nothing.
            offsets: int64 [F + 1]; node f has the children `offsets[f]` to `offsets[f + 1]`.

        Returns:
            The rows [A, W] of the children, and int64 [A], lengths of the longest common subsequences.
        """
        below, lengths = np.empty((len(tokens), rows.shape[1]), np.uint64), np.empty(len(tokens), np.int64)
        _descend(
            self.tokens,
            self.starts,
            self.hits,
            frozen(rows),
            frozen(question_of, np.int64),
            frozen(tokens, np.int64),
            frozen(offsets, np.int64),
            below,
            lengths,
        )
        return below, lengths


@jit
def take_in(v: Words, hits: Words, words: Integer) -> None:
    """One token of a text: the row after it, in place of the row before."""
    carry = np.uint64(0)
    for w in range(words):
        hit = v[w] & hits[w]
        total = v[w] + hit
        over = np.uint64(total < hit)
        total += carry
        carry = over | np.uint64(total < carry)
        v[w] = total | (v[w] & ~hits[w])


@jit
def length_of(v: Words, words: Integer) -> Integer:
    """The zeros of a row."""
    count = 0
    for w in range(words):
        zeros = ~v[w]
        while zeros:  # a text has few tokens, so few bits are set
            zeros &= zeros - np.uint64(1)
            count += 1
    return count


@jit
def _runs(
    q_tokens: Tokens,
    q_starts: Numbers,
    tokens: Tokens,
    starts: Numbers,
    question_of: Numbers,
    out: Numbers,
    at: Numbers,
) -> None:
    """Fills `out` and `at`: along each diagonal of the table of equal tokens, the longest stretch of hits."""
    for i in range(out.shape[0]):
        begin, end = starts[i], starts[i + 1]
        q_begin, q_end = q_starts[question_of[i]], q_starts[question_of[i] + 1]
        for shift in range(begin - end + 1, q_end - q_begin):
            run = 0
            for p in range(max(begin, begin - shift), min(end, begin - shift + q_end - q_begin)):
                run = run + 1 if tokens[p] == q_tokens[q_begin + shift + p - begin] else 0
                if run > out[i]:
                    out[i], at[i] = run, shift + p - begin + 1 - run


@jit
def _descend(
    q_tokens: Numbers,
    q_starts: Numbers,
    hits: Words,
    rows: Words,
    question_of: Numbers,
    tokens: Numbers,
    offsets: Numbers,
    below: Words,
    lengths: Numbers,
) -> None:
    """See `Matches.descend`."""
    words = rows.shape[1]
    for f in range(question_of.shape[0]):
        begin, end = q_starts[question_of[f]], q_starts[question_of[f] + 1]
        for a in range(offsets[f], offsets[f + 1]):
            below[a] = rows[f]
            at = begin + np.searchsorted(q_tokens[begin:end], tokens[a])
            if at < end and q_tokens[at] == tokens[a]:
                take_in(below[a], hits[at], words)
            lengths[a] = length_of(below[a], words)


@jit
def _lengths(
    q_tokens: Tokens,
    q_starts: Numbers,
    tokens: Tokens,
    starts: Numbers,
    question_of: Numbers,
    slot: Numbers,
    matches: Words,
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
            take_in(v, matches[slot[tokens[p]]], words)
        out[i] = length_of(v, words)
