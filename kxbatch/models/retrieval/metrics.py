"""How good answers are: the measures of KgCLUE (CLUEbenchmark, 2021).

Texts are normalised first. EM says whether an answer is the gold text; F1 is 2 LCS(a, b) / (|a| + |b|) on characters, 0 where
both are empty; Score is (EM + F1) / 2 of the object. Where a question has several gold texts, the best match counts: each
measure takes the one it likes best. An answer of None, nothing found, is wrong, even where the gold text is empty.

KgCLUE lower-cases and collapses white space. `normalize` also takes full-width and half-width forms as one (NFKC), for
the keys of a graph cannot tell them apart.

Letters: N questions, G gold texts of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError
from kxbatch.kernels.lcs import lcs_lengths
from kxbatch.kernels.trie.keys import Keys, starts_of
from kxbatch.models.graph.text import normalize

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Match:
    """How well answers match.

    Attributes:
        exact: bool [N], EM.
        f1: float64 [N].
    """

    exact: Booleans
    f1: Floats

    @property
    def score(self) -> Floats:
        """float64 [N], (EM + F1) / 2."""
        return (self.exact + self.f1) / 2


def match(answers: Sequence[str | None], golds: Sequence[Sequence[str]]) -> Match:
    """Compares one answer a question with its gold texts.

    Args:
        answers: N, None where nothing was found.
        golds: N, the right texts of each question, one or more.

    Raises:
        DataError: the lengths differ, or a question has no gold text.
    """
    if len(answers) != len(golds) or not all(len(texts) for texts in golds):
        raise DataError(
            f"{len(answers)} answers, {len(golds)} questions with gold texts, "
            f"{sum(not len(texts) for texts in golds)} of them without one: an answer and a gold text for each"
        )
    given = normalize(["" if answer is None else answer for answer in answers]).to_pylist()
    wanted = normalize([text for texts in golds for text in texts]).to_pylist()
    found = np.array([answer is not None for answer in answers], dtype=bool)
    starts = starts_of([len(texts) for texts in golds])
    question_of = np.repeat(np.arange(len(golds)), np.diff(starts))
    same = [given[question] == text for question, text in zip(question_of.tolist(), wanted, strict=True)]
    f1 = f1_scores(given, wanted, question_of)
    if not len(golds):
        return Match(found, np.zeros(0))
    exact = np.logical_or.reduceat(np.array(same, dtype=bool), starts[:-1])
    return Match(exact & found, np.where(found, np.maximum.reduceat(f1, starts[:-1]), 0.0))


def f1_scores(texts: Sequence[str], others: Sequence[str], text_of: Numbers) -> Floats:
    """F1 on characters, as the texts are.

    Args:
        texts: such as answers.
        others: G, such as gold texts.
        text_of: int64 [G], which of `texts` each of `others` is compared with.

    Returns:
        float64 [G], 0 where both are empty.
    """
    left, right = characters(texts), characters(others)
    both = left.lengths[text_of] + right.lengths
    return np.asarray(2 * lcs_lengths(left, right, text_of) / np.maximum(both, 1))


def characters(texts: Sequence[str]) -> Keys:
    """Texts as sequences of code points."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", errors="surrogatepass"), dtype=np.uint32)
    return Keys(points, starts_of([len(text) for text in texts]))


def all_parts(parts: Sequence[Match]) -> Match:
    """Several parts as one: exact where every part is, F1 the mean of theirs.

    Args:
        parts: at least one, each of N questions.
    """
    return Match(
        np.logical_and.reduce([part.exact for part in parts]),
        np.asarray(np.mean([part.f1 for part in parts], axis=0)),
    )


def hits(ranks: Numbers, most: int) -> float:
    """Hits@n: the share of questions with a right answer among the first n.

    Args:
        ranks: int64 [N], the place of the first right answer from 0 on; -1 where none is right.
        most: n.
    """
    return float(((ranks >= 0) & (ranks < most)).mean()) if len(ranks) else 0.0
