"""What the rows of retrieve stages are like, in two passes: counts and quantiles first, then a histogram over their range."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kxbatch.data.storage import Folder
from kxbatch.report.density_rows import Floats, Thinned, least
from kxbatch.report.density_survey import BINS, MOST_SORTED, Histogram
from kxbatch.report.record import Run
from kxbatch.report.retrieval_rows import PARTS, Batch, Row, batches
from kxbatch.stages.base import trained_stage

UNSURE, TYPICAL, UNANSWERED = 10, 5, 5  # rows shown
TAIL = 0.005  # share of the rows that may lie below the histogram
LEARNED = "train"  # usual name of the column that tells rows that were learned from


@dataclass(frozen=True)
class Matches:
    """Questions whose right fact is kept: all of them, those learned from, or the others.

    Attributes:
        learned: None for all of them.
        questions: with a kept fact.
        answered: of these.
        shares: of the answered, whose best answer has the kept subject, predicate, and both; None without one.
    """

    learned: bool | None
    questions: int
    answered: int
    shares: tuple[float | None, ...]


@dataclass(frozen=True)
class Retrieval:
    """One retrieve stage that has rows.

    Attributes:
        name: of the stage.
        threshold: log p below which a question gets no answer; None for all get one.
        learned: column that tells the rows that were learned from, whether it is kept or not; None for all were.
        rows: of all parts.
        reasons: questions without an answer, by why, most frequent first.
        mean: log p of the best answers, nats; None without an answer.
        parts: [3], the same of subject, predicate and meaning.
        weakest: [3], share of the answers whose least sure part this is.
        histogram: of log p; answers that are known to be wrong are the second line. None without an answer.
        matches: with kept facts, all rows, then those learned from and the others, where that is known.
        unsure: least log p first.
        typical: nearest to the median, nearest first.
        unanswered: the first ones.
    """

    name: str
    threshold: float | None
    learned: str | None
    rows: int
    reasons: Mapping[str, int]
    mean: float | None
    parts: tuple[float, ...]
    weakest: tuple[float, ...]
    histogram: Histogram | None
    matches: tuple[Matches, ...]
    unsure: tuple[Row, ...]
    typical: tuple[Row, ...]
    unanswered: tuple[Row, ...]

    @property
    def answered(self) -> int:
        """Questions with an answer."""
        return self.rows - sum(self.reasons.values())

    @property
    def shown(self) -> tuple[Row, ...]:
        """Every row that is shown."""
        return (*self.unsure, *self.typical, *self.unanswered)


def read_retrievals(output: Folder, run: Run) -> Iterator[Retrieval]:
    """Every retrieve stage of a run that has rows, in job order.

    Raises:
        DataError: a file is not what a retrieve stage writes.
    """
    stages = run.job.get("stage", ())
    fitted = {str(one.get("name", "prefix-lm")): one.get("fit_on") for one in stages if one.get("kind") == "prefix-lm"}
    for stage in stages:
        if stage.get("kind") == "retrieve":
            learned = fitted.get(trained_stage(str(stage.get("model"))) or "", LEARNED)
            found = _survey(output, stage, learned)
            if found is not None:
                yield found


class _Tally:
    """The first pass."""

    def __init__(self) -> None:
        self.rows = self.scored = 0
        self.reasons: Counter[str] = Counter()
        self.parts, self.weakest = np.zeros(len(PARTS)), np.zeros(len(PARTS))
        self.total, self.least, self.most = 0.0, np.inf, -np.inf
        self.sample = Thinned(1, MOST_SORTED)
        self.matches = np.zeros(
            (3, 5), np.int64
        )  # all, learned from, not; questions, answered, subject, predicate, both
        self.unsure: list[tuple[float, Row]] = []
        self.unanswered: list[tuple[float, Row]] = []

    def add(self, batch: Batch) -> None:
        known = np.isfinite(batch.score)
        none = ~np.asarray(batch.best.is_valid())
        scores, parts = batch.score[known], np.nan_to_num(batch.parts[known])
        self.rows += len(known)
        self.scored += len(scores)
        self.reasons.update(reason or "no reason is given" for reason in batch.reasons.filter(none).to_pylist())
        self.total += float(scores.sum())
        self.parts += parts.sum(axis=0)
        self.weakest += np.bincount(parts.argmin(axis=1), minlength=len(PARTS))
        self.least, self.most = min(self.least, scores.min(initial=np.inf)), max(self.most, scores.max(initial=-np.inf))
        self.sample.add(scores[:, None])
        self.unsure = least([*self.unsure, *batch.first(batch.score, UNSURE)], UNSURE)
        self.unanswered = least([*self.unanswered, *batch.first(np.where(none, 0.0, np.nan), UNANSWERED)], UNANSWERED)
        self._add_matches(batch)

    def _add_matches(self, batch: Batch) -> None:
        right = batch.right == 1
        answered = batch.known & ~np.isnan(batch.right).any(axis=1)
        measures = np.stack([batch.known, answered, *right.T, right.all(axis=1)], axis=1)
        groups = (batch.known, batch.known & (batch.learned == 1), batch.known & (batch.learned == 0))
        self.matches += np.stack([measures[group].sum(axis=0) for group in groups])

    def told(self) -> Iterator[Matches]:
        for learned, (questions, answered, *right) in zip((None, True, False), self.matches.tolist(), strict=True):
            if questions:
                shares = tuple(count / answered if answered else None for count in right)
                yield Matches(learned, questions, answered, shares)

    def edges(self, threshold: float | None) -> Floats:
        """Of the histogram: up to 0, and down to all but a few rows and to the threshold."""
        low = max(float(np.quantile(self.sample.rows[:, 0], TAIL, method="lower")), self.least)
        low, high = min(low, threshold if threshold is not None else low), max(self.most, 0.0)
        return np.linspace(low - (0.5 if low == high else 0.0), high, BINS + 1)


def _survey(output: Folder, stage: Mapping[str, Any], learned: str | None) -> Retrieval | None:
    name, tally = str(stage.get("name", "retrieve")), _Tally()
    folder, threshold = output.child(name), stage.get("threshold")
    threshold = float(threshold) if isinstance(threshold, int | float) and math.isfinite(threshold) else None
    for batch in batches(folder, learned):
        tally.add(batch)
    if not tally.rows:
        return None
    scored = tally.scored
    histogram, typical = _second(folder, learned, tally, tally.edges(threshold)) if scored else (None, ())
    return Retrieval(
        name=name,
        threshold=threshold,
        learned=learned,
        rows=tally.rows,
        reasons=dict(tally.reasons.most_common()),
        mean=tally.total / scored if scored else None,
        parts=tuple((tally.parts / scored).tolist()) if scored else (),
        weakest=tuple((tally.weakest / scored).tolist()) if scored else (),
        histogram=histogram,
        matches=tuple(tally.told()),
        unsure=tuple(row for _, row in tally.unsure),
        typical=typical,
        unanswered=tuple(row for _, row in tally.unanswered),
    )


def _second(folder: Folder, learned: str | None, tally: _Tally, edges: Floats) -> tuple[Histogram, tuple[Row, ...]]:
    """The second pass: the histogram and the rows nearest to the median."""
    rows, below, median = np.zeros((2, BINS), np.int64), 0, float(np.median(tally.sample.rows))
    typical: list[tuple[float, Row]] = []
    for batch in batches(folder, learned):
        known = np.isfinite(batch.score)
        values, wrong = batch.score[known], (batch.right[known] == 0).any(axis=1).astype(np.int64)
        places = (np.searchsorted(edges, values, side="right") - 1).clip(0, BINS - 1)
        rows += np.bincount(wrong * BINS + places, minlength=2 * BINS).reshape(2, BINS)
        below += int(np.count_nonzero(values < edges[0]))
        typical = least([*typical, *batch.first(np.abs(batch.score - median), TYPICAL)], TYPICAL)
    return Histogram(edges, rows, below, 0), tuple(row for _, row in typical)
