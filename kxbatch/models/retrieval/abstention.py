"""When to give no answer: precision against coverage, and the threshold that balances them.

Questions whose best answer scores below a threshold get none. With precision P = right answers / answers given and recall
R = right answers / questions, which is P times the share of questions that are answered, the best threshold is the one
with the largest F1 = 2 P R / (P + R).

Letters: N questions, K distinct scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

RULE = "the largest F1 = 2 P R / (P + R), P = right answers / answers given, R = right answers / questions"


@dataclass(frozen=True)
class Abstention:
    """What a threshold comes to.

    Attributes:
        threshold: score below which a question gets no answer; None where every answer is given.
        questions: how many were asked.
        answered: how many got an answer.
        right: how many got a right one.
    """

    threshold: float | None
    questions: int
    answered: int
    right: int

    @property
    def precision(self) -> float:
        """Share of the answers that are right; 0 without any."""
        return self.right / max(self.answered, 1)

    @property
    def coverage(self) -> float:
        """Share of the questions that got an answer."""
        return self.answered / max(self.questions, 1)

    @property
    def recall(self) -> float:
        """Share of the questions that got a right answer."""
        return self.right / max(self.questions, 1)

    @property
    def f1(self) -> float:
        """2 P R / (P + R)."""
        return 2 * self.right / max(self.answered + self.questions, 1)


@dataclass(frozen=True, eq=False)
class Curve:
    """What is answered, and rightly, down to each score.

    Attributes:
        scores: float64 [K], falling; only finite ones, so a question without an answer is never answered.
        answered: int64 [K], answers with at least this score.
        right: int64 [K], how many of them are right.
        questions: N.
    """

    scores: Floats
    answered: Numbers
    right: Numbers
    questions: int

    @classmethod
    def of(cls, scores: Floats, right: Booleans) -> Curve:
        """The curve of N best answers.

        Args:
            scores: float64 [N], -inf for a question without an answer.
            right: bool [N].

        Raises:
            DataError: the lengths differ, or a score is NaN.
        """
        if len(scores) != len(right) or np.isnan(scores).any():
            raise DataError(f"{len(scores)} scores, {np.isnan(scores).sum()} of them NaN, of {len(right)} answers")
        order = np.argsort(-scores, kind="stable")
        order = order[np.isfinite(scores[order])]
        last = np.flatnonzero(np.diff(scores[order], append=-np.inf) < 0)  # answers of one score come together
        return cls(scores[order][last], last + 1, np.cumsum(right[order], dtype=np.int64)[last], len(scores))

    def best(self) -> Abstention:
        """The threshold with the largest F1; of several, the one that answers most.

        It lies in the middle between the lowest score that is answered and the highest that is not, so that rounding
        does not decide; where everything is answered there is none.
        """
        if not len(self.scores):
            return Abstention(None, self.questions, 0, 0)
        f1 = 2 * self.right / (self.answered + self.questions)
        at = len(f1) - 1 - int(np.argmax(f1[::-1]))
        everything = at == len(f1) - 1
        threshold = None if everything else float(self.scores[at : at + 2].mean())
        return Abstention(threshold, self.questions, int(self.answered[at]), int(self.right[at]))

    def at(self, threshold: float | None) -> Abstention:
        """What a given threshold comes to."""
        kept = len(self.scores) if threshold is None else int((self.scores >= threshold).sum())
        answered, right = (int(column[kept - 1]) if kept else 0 for column in (self.answered, self.right))
        return Abstention(threshold, self.questions, answered, right)
