"""What the rows of a density stage are like, in two passes: counts and quantiles first, then a histogram over their range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.data.storage import Folder
from kxbatch.kernels.ranking import auroc, average_precision
from kxbatch.report.density_rows import Batch, Floats, Row, Thinned, batches, least
from kxbatch.stages.density_gate import FEW

LOWEST, TYPICAL = 12, 6  # rows shown
BINS = 40
REACH = 12.0  # interquartile ranges on either side of the median that the histogram covers
MOST_RANKED = 1 << 22  # labelled rows that are ranked; of more every second, fourth, ...
MOST_SORTED = 1 << 17  # log densities of which quantiles are taken
PERCENTILE_STEP = 0.1
ESS_EDGES: Floats = 2.0 ** (np.arange(81) / 4)  # 1 to a million; a number of samples need not be known beforehand

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Histogram:
    """Rows by log density; the first and the last bin hold what is beyond, too.

    Attributes:
        edges: [b + 1], nats, ascending.
        rows: [2, b]: known outliers are the second line, all others the first.
        below: rows below the first edge, which the first bin holds; `above` likewise.
    """

    edges: Floats
    rows: Counts
    below: int
    above: int


@dataclass(frozen=True)
class Ranking:
    """How well the score finds the known outliers, None where that is undefined; `every` is 1 for all labelled rows."""

    outliers: int
    rows: int
    auroc: float | None
    average_precision: float | None
    every: int


@dataclass(frozen=True)
class Ess:
    """Effective sample sizes: rows in each bin of `ESS_EDGES`, rows, their mean, and how many are below `FEW`."""

    rows: int
    counts: Counts
    mean: float
    few: int


@dataclass(frozen=True)
class Survey:
    """All rows of a density stage.

    Attributes:
        rows: of all parts.
        finite: rows whose log density is a finite number; `mean` is theirs, in nats.
        histogram: None without a finite row. Rows of infinite log density are in its first and last bin.
        lowest: ascending; minus infinity counts.
        typical: nearest to the median, nearest first.
        ess: None where no row has one.
        percentiles: [1001], rows whose percentile is at most 0, 0.1, ... 100; None where no row has one.
        ranking: None without a labelled row.
    """

    rows: int
    finite: int
    mean: float | None
    histogram: Histogram | None
    lowest: tuple[Row, ...]
    typical: tuple[Row, ...]
    ess: Ess | None
    percentiles: Counts | None
    ranking: Ranking | None

    @property
    def shown(self) -> tuple[Row, ...]:
        """Every row that is shown."""
        return (*self.lowest, *self.typical)


class _Tally:
    """The first pass."""

    def __init__(self) -> None:
        self.rows = self.finite = 0
        self.total = 0.0
        self.sample = Thinned(1, MOST_SORTED)
        self.ranked = Thinned(2, MOST_RANKED)
        self.lowest: list[tuple[float, Row]] = []
        self.least, self.most = np.inf, -np.inf
        self.ess_counts = np.zeros(len(ESS_EDGES) - 1, np.int64)
        self.ess_total, self.few = 0.0, 0
        self.percentiles = np.zeros(round(100 / PERCENTILE_STEP) + 1, np.int64)
        self.labelled = self.outliers = 0

    def add(self, batch: Batch) -> None:
        values = batch.log_density
        finite = values[np.isfinite(values)]
        self.rows += len(values)
        self.finite += len(finite)
        self.total += float(finite.sum())
        self.least = min(self.least, float(finite.min(initial=np.inf)))
        self.most = max(self.most, float(finite.max(initial=-np.inf)))
        self.sample.add(finite[:, None])
        self.lowest = least([*self.lowest, *batch.first(values, LOWEST)], LOWEST)
        self._add_ess(batch.measures["ess"])
        self._add_percentiles(batch.measures["density_percentile"])
        self._add_labelled(batch.measures["density_score"], batch.outlier)

    def _add_ess(self, ess: Floats) -> None:
        ess = ess[np.isfinite(ess)]
        places = np.searchsorted(ESS_EDGES, ess, side="right") - 1
        self.ess_counts += np.bincount(places.clip(0, len(self.ess_counts) - 1), minlength=len(self.ess_counts))
        self.ess_total += float(ess.sum())
        self.few += int(np.count_nonzero(ess < FEW))

    def _add_percentiles(self, percentile: Floats) -> None:
        known = percentile[np.isfinite(percentile)].clip(0, 100)
        places = np.ceil(known / PERCENTILE_STEP - 1e-6).astype(np.int64).clip(0, len(self.percentiles) - 1)
        self.percentiles += np.bincount(places, minlength=len(self.percentiles))

    def _add_labelled(self, score: Floats, outlier: Floats) -> None:
        known = ~np.isnan(score) & ~np.isnan(outlier)
        self.labelled += int(np.count_nonzero(known))
        self.outliers += int(np.count_nonzero(outlier[known]))
        self.ranked.add(np.stack([score[known], outlier[known]], axis=1))

    def ess(self) -> Ess | None:
        rows = int(self.ess_counts.sum())
        return Ess(rows, self.ess_counts, self.ess_total / rows, self.few) if rows else None

    def ranking(self) -> Ranking | None:
        if not self.labelled:
            return None
        score, outlier = self.ranked.rows.T
        measures = auroc(score, outlier), average_precision(score, outlier)
        return Ranking(self.outliers, self.labelled, *measures, self.ranked.every)

    def edges(self) -> Floats:
        """Of the histogram: the whole range, but no further than `REACH` from the median."""
        lower, median, upper = np.quantile(self.sample.rows[:, 0], [0.25, 0.5, 0.75])
        reach = REACH * (upper - lower) or np.inf
        low, high = max(self.least, median - reach), min(self.most, median + reach)
        pad = 0.5 if low == high else 0.0
        return np.linspace(low - pad, high + pad, BINS + 1)


def survey(stage: Folder, labels: str | None = None) -> Survey | None:
    """Look through the rows of a density stage.

    Args:
        stage: folder of it.
        labels: column that tells known outliers; one that the parts lack is as none.

    Returns:
        None where there is no row.

    Raises:
        DataError: a part is damaged, or has no ids or log densities.
    """
    tally = _Tally()
    for batch in batches(stage, labels):
        tally.add(batch)
    if not tally.rows:
        return None
    histogram, typical = _second(stage, labels, tally) if tally.finite else (None, ())
    return Survey(
        rows=tally.rows,
        finite=tally.finite,
        mean=tally.total / tally.finite if tally.finite else None,
        histogram=histogram,
        lowest=tuple(row for _, row in tally.lowest),
        typical=typical,
        ess=tally.ess(),
        percentiles=np.cumsum(tally.percentiles) if tally.percentiles.any() else None,
        ranking=tally.ranking(),
    )


def _second(stage: Folder, labels: str | None, tally: _Tally) -> tuple[Histogram, tuple[Row, ...]]:
    """The second pass: the histogram and the rows nearest to the median."""
    edges, median = tally.edges(), float(np.median(tally.sample.rows))
    rows, beyond = np.zeros((2, BINS), np.int64), [0, 0]
    typical: list[tuple[float, Row]] = []
    for batch in batches(stage, labels):
        known = ~np.isnan(batch.log_density)
        values, line = batch.log_density[known], (batch.outlier[known] == 1).astype(np.int64)
        places = (np.searchsorted(edges, values, side="right") - 1).clip(0, BINS - 1)
        rows += np.bincount(line * BINS + places, minlength=2 * BINS).reshape(2, BINS)
        beyond[0] += int(np.count_nonzero(values < edges[0]))
        beyond[1] += int(np.count_nonzero(values > edges[-1]))
        typical = least([*typical, *batch.first(np.abs(batch.log_density - median), TYPICAL)], TYPICAL)
    return Histogram(edges, rows, *beyond), tuple(row for _, row in typical)
