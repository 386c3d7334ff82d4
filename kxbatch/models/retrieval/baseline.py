"""Retrieval without training: what the trie and the question alone tell. What a trained model must beat.

The subject is the longest span of the question that is a subject of the graph. Of the parts that may follow it, the one with
the longest common subsequence with the rest of the question comes first; among equals the one of which this is the larger share,
then the order of the trie. The last part likewise, under each of them. More answers than the longest span has are taken from
the next one: the next longest, among equals the one further left.

Parts are taken in the order of the keys, so with keys (S, M, P) the meaning is chosen before the predicate.

Letters: Q questions, H answers of all of them, C spans that are a subject.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.lcs import lcs_lengths
from kxbatch.kernels.trie import Automaton, Keys
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.retrieval.parts import Parts, inner_parts, last_parts

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Linked:
    """Answers, the best of a question first.

    Attributes:
        offsets: int64 [Q + 1]; question q has the answers `offsets[q]` to `offsets[q + 1]`, none without a subject in it.
        numbers: int64 [H], of keys.
    """

    offsets: Numbers
    numbers: Numbers


@dataclass(frozen=True, eq=False)
class Spans:
    """Spans of questions that are subjects: those of a question together, the best first, each subject once.

    Attributes:
        question_of: int64 [C], rising.
        position: int64 [C], the first token.
        length: int64 [C], tokens, 1 or more.
        states: int64 [C, W], the state after subject and separator.
    """

    question_of: Numbers
    position: Numbers
    length: Numbers
    states: Numbers


def link(trie: Automaton, questions: Keys, separator: int, answers: int = 1) -> Linked:
    """Answers questions by linking alone.

    Args:
        trie: of keys of three parts, with separators between them.
        questions: Q questions without separators.
        separator: the token between parts.
        answers: at most so many a question.
    """
    spans = subject_spans(trie, questions, separator)
    question_of, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    missing = np.full(len(questions), answers)
    next_span = np.searchsorted(spans.question_of, np.arange(len(questions) + 1))
    next_span, last = next_span[:-1].copy(), next_span[1:]
    while len(going := np.flatnonzero((missing > 0) & (next_span < last))):
        chosen = next_span[going]
        rest = without_spans(questions.take(going), spans.position[chosen], spans.length[chosen], separator)
        of_going, found = _keys_below(trie, spans.states[chosen], rest, separator, missing[going])
        question_of.append(going[of_going])
        numbers.append(found)
        missing -= np.bincount(question_of[-1], minlength=len(questions))
        next_span[going] += 1
    owners = np.concatenate(question_of)
    order = np.argsort(owners, kind="stable")
    return Linked(
        np.searchsorted(owners[order], np.arange(len(questions) + 1)).astype(np.int64), np.concatenate(numbers)[order]
    )


def subject_spans(trie: Automaton, questions: Keys, separator: int) -> Spans:
    """All spans of the questions that are a complete subject: some key goes on with the separator.

    All suffixes of all questions follow the trie together, so this takes as many steps as the longest walk has tokens.
    """
    starts, ends = questions.starts[:-1], questions.starts[1:]
    at = np.arange(starts[0], ends[-1]) if len(questions) else starts
    of = np.repeat(np.arange(len(questions)), questions.lengths)
    states, length = trie.start(len(at)), 0
    found = [(of[:0], at[:0], at[:0], states[:0])]
    going = np.arange(len(at))
    while len(going := going[at[going] + length < ends[of[going]]]):
        states[going] = trie.advance(states[going], questions.tokens[at[going] + length].astype(np.int64))
        going, length = going[states[going].max(axis=1) >= 0], length + 1
        after = trie.advance(states[going], np.full(len(going), separator))
        whole = after.max(axis=1) >= 0
        rows = going[whole]
        found.append((of[rows], at[rows] - starts[of[rows]], np.full(len(rows), length), after[whole]))
    return _best_first(*(np.concatenate(columns) for columns in zip(*found, strict=True)))


def without_spans(questions: Keys, position: Numbers, length: Numbers, separator: int) -> Keys:
    """Questions with a separator, which no part holds, in place of each token of a span: int64 [Q] tells where and how long."""
    tokens, starts = questions.tokens.copy(), starts_of(length)
    tokens[np.arange(starts[-1]) + np.repeat(questions.starts[:-1] + position - starts[:-1], length)] = separator
    return Keys(tokens, questions.starts)


def _best_first(question_of: Numbers, position: Numbers, length: Numbers, states: Numbers) -> Spans:
    order = np.lexsort((position, -length, question_of))
    rows = np.column_stack([question_of, states])[order]
    first = np.sort(np.unique(rows, axis=0, return_index=True)[1])  # a subject that is there twice counts once
    order = order[first]
    return Spans(question_of[order], position[order], length[order], states[order])


def _keys_below(
    trie: Automaton, states: Numbers, questions: Keys, separator: int, most: Numbers
) -> tuple[Numbers, Numbers]:
    """The best keys below one state a question: whose they are, rising, and their numbers; at most `most` [Q] each."""
    middle = inner_parts(trie, states, separator)
    order = _ranked(middle, questions, middle.state_of)
    question_of, after = middle.state_of[order], middle.after[order]
    before = _counted_before(trie.count(after), question_of)
    needed = before < most[question_of]
    question_of, after = question_of[needed], after[needed]
    last = last_parts(trie, after)
    order = _ranked(last, questions, question_of[last.state_of])
    owners, numbers = question_of[last.state_of[order]], last.after[order]
    kept = _counted_before(np.ones(len(owners), np.int64), owners) < most[owners]
    return owners[kept], numbers[kept]


def _ranked(parts: Parts, questions: Keys, question_of: Numbers) -> Numbers:
    """Rows of parts by state, the best of a state first."""
    common = lcs_lengths(questions, parts.texts, question_of)
    length = np.where(common > 0, parts.texts.lengths, 0)  # of the same LCS, the shorter has the larger share
    return np.lexsort((length, -common, parts.state_of))


def _counted_before(counts: Numbers, question_of: Numbers) -> Numbers:
    """The sum of the counts before each row, within its question; `question_of` rises."""
    sums = np.cumsum(counts) - counts
    first = np.searchsorted(question_of, question_of)
    return np.asarray(sums - sums[first], dtype=np.int64)
