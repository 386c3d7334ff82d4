"""When densities say that rows look wrong: told from sums that every part carries, so that no part is read again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
PERCENTILES = (0.1, 1.0, 5.0, 10.0)  # of which the share of rows below is counted
FEW_ROWS = 0.05  # share of rows with few samples that is worth a warning


def counted(log_density: Floats, percentile: Floats) -> dict[str, float]:
    """What `judge` needs of rows.

    Args:
        log_density: [m], nats, of the rows that have one.
        percentile: those of them that have a place among the calibration rows.
    """
    found = log_density.astype(np.float64)
    told = {"rows_scored": float(len(found)), "rows_placed": float(len(percentile))}
    told["log_density_sum"] = float(found.sum())
    told["log_density_squares"] = float(np.square(found).sum())
    return told | {f"rows_below_percentile_{p:g}": float((percentile < p).sum()) for p in PERCENTILES}


def below_percentile(new: Mapping[str, float], percentile: float, limit: float | None) -> list[str]:
    """Whether too many new rows lie below a percentile of the calibration rows; words where they do."""
    rows, below = new.get("rows_scored", 0.0), new.get(f"rows_below_percentile_{percentile:g}", 0.0)
    if limit is None or not rows:
        return []
    if not new.get("rows_placed"):
        return [
            "gate.max_share_below_percentile cannot be judged: no row calibrates; raise calibration_share, or leave the limit out"
        ]
    if below / rows <= limit:
        return []
    return [
        f"{below / rows:.3%} of {rows:,.0f} new rows lie below the calibration rows' percentile {percentile:g}, "
        f"gate.max_share_below_percentile is {limit:.3%}"
    ]


def mean_moved(new: Mapping[str, float], before: Mapping[str, float], limit: float | None) -> list[str]:
    """Whether the mean log-density moved too far, in standard deviations of the rows before; words where it did."""
    if limit is None or not new.get("rows_scored") or before.get("rows_scored", 0.0) < 2:
        return []
    rows = before["rows_scored"]
    mean = before.get("log_density_sum", 0.0) / rows
    deviation = max(before.get("log_density_squares", 0.0) / rows - mean**2, 0.0) ** 0.5
    moved = new.get("log_density_sum", 0.0) / new["rows_scored"] - mean
    if abs(moved) <= limit * deviation:
        return []
    return [
        f"the mean log-density of {new['rows_scored']:,.0f} new rows lies {abs(moved):.4g} nats "
        f"{'above' if moved > 0 else 'below'} that of the rows before, whose standard deviation is {deviation:.4g}; "
        f"gate.max_mean_drift is {limit:g} of these"
    ]


def few_samples(counters: Mapping[str, float], samples: int) -> list[str]:
    """A warning where many estimates hang on a few samples."""
    few, rows = counters.get("rows_with_few_samples", 0.0), counters.get("rows_scored", 0.0)
    if not rows or few / rows <= FEW_ROWS:
        return []
    return [
        f"{few / rows:.1%} of the rows have an effective sample size below 10: log_density is too low for them, and density_stderr "
        f"itself uncertain; raise samples (now {samples}), or train a better encoder"
    ]
