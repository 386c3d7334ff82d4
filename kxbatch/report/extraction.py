"""What the rows of extract stages are like, in two passes: counts and quantiles first, then a histogram over their range."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kxbatch.data.storage import Folder
from kxbatch.models.extraction.metrics import Numbers
from kxbatch.report.density_rows import Floats, Thinned, least
from kxbatch.report.density_survey import BINS, MOST_SORTED
from kxbatch.report.extraction_rows import Batch, Row, batches
from kxbatch.report.extraction_threshold import threshold
from kxbatch.report.record import Run

UNSURE, NESTED, TYPICAL = 8, 6, 6  # rows shown
TAIL = 0.005  # share of the entities that may lie beyond each end of the histogram
WIDEST = 24  # code points; wider entities are one bar


@dataclass(frozen=True)
class Histogram:
    """Entities by score; the first and the last bin hold what is beyond, too.

    Attributes:
        edges: [b + 1], ascending.
        counts: int64 [b].
        below: entities below the first edge; `above` likewise.
    """

    edges: Floats
    counts: Numbers
    below: int
    above: int


@dataclass(frozen=True)
class TypeFacts:
    """One type of entities: how many, and the means of their scores and of their widths in code points."""

    name: str
    count: int
    score: float
    width: float


@dataclass(frozen=True)
class Extraction:
    """One extract stage that has rows.

    Attributes:
        name: of the stage.
        threshold: score that an entity must exceed; None where there is none, or it is not known.
        rule: what holds in place of a threshold; "" where there is one.
        policy: "nested" or "flat", as the job says; "" where it does not.
        rows: of all parts.
        empty: rows without an entity.
        entities: of all rows.
        nested: of these, those that lie inside another one or hold one.
        types: most frequent first.
        widths: int64 [WIDEST + 1], entities of 1, 2, ... code points; the last are wider.
        widest: code points; 0 without an entity.
        histogram: of the scores; None without a finite one.
        unsure: rows with the least sure entities, least sure first.
        nests: rows with the most nested entities.
        typical: rows whose mean score is nearest to the median.
    """

    name: str
    threshold: float | None
    rule: str
    policy: str
    rows: int
    empty: int
    entities: int
    nested: int
    types: tuple[TypeFacts, ...]
    widths: Numbers
    widest: int
    histogram: Histogram | None
    unsure: tuple[Row, ...]
    nests: tuple[Row, ...]
    typical: tuple[Row, ...]

    @property
    def shown(self) -> tuple[Row, ...]:
        """Every row that is shown."""
        return (*self.unsure, *self.nests, *self.typical)


def read_extractions(output: Folder, run: Run) -> Iterator[Extraction]:
    """Every extract stage of a run that has rows, in job order.

    Raises:
        DataError: a file is not what an extract stage writes.
    """
    for stage in run.job.get("stage", ()):
        if stage.get("kind") == "extract":
            found = _survey(output, run, stage)
            if found is not None:
                yield found


class _Tally:
    """The first pass."""

    def __init__(self) -> None:
        self.rows = self.empty = self.entities = self.nested = self.widest = 0
        self.types: Counter[str] = Counter()
        self.scores: Counter[str] = Counter()
        self.type_widths: Counter[str] = Counter()
        self.widths = np.zeros(WIDEST + 1, np.int64)
        self.sample, self.means = Thinned(1, MOST_SORTED), Thinned(1, MOST_SORTED)
        self.unsure: list[tuple[float, Row]] = []
        self.nests: list[tuple[float, Row]] = []

    def add(self, batch: Batch) -> None:
        self.rows += len(batch)
        self.empty += int(np.count_nonzero(batch.counts == 0))
        self.entities += len(batch.rows)
        self.nested += int(batch.nested.sum())
        self._add_widths(batch)
        finite = np.isfinite(batch.scores)
        self.sample.add(batch.scores[finite, None])
        self.means.add(batch.means[np.isfinite(batch.means), None])
        self.unsure = least([*self.unsure, *batch.first(batch.lowest, UNSURE)], UNSURE)
        inside = -np.bincount(batch.rows[batch.nested], minlength=len(batch)).astype(np.float64)
        self.nests = least([*self.nests, *batch.first(np.where(inside < 0, inside, np.nan), NESTED)], NESTED)

    def _add_widths(self, batch: Batch) -> None:
        widths = batch.ends - batch.starts
        self.widest = max(self.widest, int(widths.max(initial=0)))
        self.widths += np.bincount(widths.clip(1, WIDEST + 1) - 1, minlength=WIDEST + 1)
        encoded = batch.types.dictionary_encode()
        numbers, names = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        for counter, weights in ((self.types, None), (self.scores, batch.scores), (self.type_widths, widths)):
            sums = np.bincount(numbers, weights, len(names)).tolist()
            for name, amount in zip(names, sums, strict=True):
                counter[name] += amount

    def told(self) -> Iterator[TypeFacts]:
        for name, count in sorted(self.types.items(), key=lambda one: (-one[1], one[0])):
            yield TypeFacts(name, count, self.scores[name] / count, self.type_widths[name] / count)

    def edges(self, threshold: float | None) -> Floats:
        """Of the histogram: all but a few scores at each end, and the threshold."""
        values = self.sample.rows[:, 0]
        low = float(np.quantile(values, TAIL, method="lower"))
        high = float(np.quantile(values, 1 - TAIL, method="higher"))
        low = min(low, threshold) if threshold is not None else low
        return np.linspace(low, high if high > low else low + 1.0, BINS + 1)


def _survey(output: Folder, run: Run, stage: Mapping[str, Any]) -> Extraction | None:
    name, tally = str(stage.get("name", "extract")), _Tally()
    folder = output.child(name)
    for batch in batches(folder):
        tally.add(batch)
    if not tally.rows:
        return None
    score, rule = threshold(output, run, stage)
    scored = len(tally.sample.rows) and len(tally.means.rows)
    histogram, typical = _second(folder, tally, tally.edges(score)) if scored else (None, ())
    return Extraction(
        name=name,
        threshold=score,
        rule=rule,
        policy=str(stage.get("policy", "")),
        rows=tally.rows,
        empty=tally.empty,
        entities=tally.entities,
        nested=tally.nested,
        types=tuple(tally.told()),
        widths=tally.widths,
        widest=tally.widest,
        histogram=histogram,
        unsure=tuple(row for _, row in tally.unsure),
        nests=tuple(row for _, row in tally.nests),
        typical=typical,
    )


def _second(folder: Folder, tally: _Tally, edges: Floats) -> tuple[Histogram, tuple[Row, ...]]:
    """The second pass: the histogram and the rows nearest to the median."""
    counts, below, above, median = np.zeros(BINS, np.int64), 0, 0, float(np.median(tally.means.rows))
    typical: list[tuple[float, Row]] = []
    for batch in batches(folder):
        values = batch.scores[np.isfinite(batch.scores)]
        places = (np.searchsorted(edges, values, side="right") - 1).clip(0, BINS - 1)
        counts += np.bincount(places, minlength=BINS)
        below += int(np.count_nonzero(values < edges[0]))
        above += int(np.count_nonzero(values > edges[-1]))
        typical = least([*typical, *batch.first(np.abs(batch.means - median), TYPICAL)], TYPICAL)
    return Histogram(edges, counts, below, above), tuple(row for _, row in typical)
