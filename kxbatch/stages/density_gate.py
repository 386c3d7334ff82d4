"""When densities say that rows look wrong: told from sums that every part carries, so that no part is read again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
PERCENTILES = (0.1, 1.0, 5.0, 10.0)  # of which the share of rows below is counted
FARTHEST = 10.0  # standard deviations that a row counts at most
FEW = 10  # effective samples
FEW_ROWS = 0.05  # share of rows with few samples that is worth a warning


def counted(log_density: Floats, percentile: Floats, calibration: Floats, without: int) -> dict[str, float]:
    """What `judge` needs of rows.

    Args:
        log_density: [m], nats, of the rows that have one.
        percentile: those of them that have a place among the calibration rows.
        calibration: densities of the calibration rows.
        without: rows so far off that their density is no number: lower than any.
    """
    told = {"rows_scored": float(len(log_density) + without), "rows_placed": float(len(percentile))}
    told["rows_without_density"] = float(without)
    told["log_density_shifts"] = float(_shifts(log_density, calibration).sum()) - FARTHEST * without
    return told | {f"rows_below_percentile_{p:g}": float((percentile < p).sum() + without) for p in PERCENTILES}


def _shifts(found: Floats, calibration: Floats) -> Floats:
    """Distances from the median of the calibration rows, in their robust standard deviations, at most 10.

    That is 1.4826 times the median absolute deviation; so no single row moves a mean, and none makes a gate blind.
    """
    if not len(calibration):
        return np.zeros(len(found))
    middle = float(np.median(calibration))
    deviation = 1.4826 * float(np.median(np.abs(calibration - middle)))
    shifts: Floats = np.clip((found - middle) / (deviation or 1.0), -FARTHEST, FARTHEST)
    return shifts


def below_percentile(new: Mapping[str, float], percentile: float, limit: float | None) -> list[str]:
    """Whether too many new rows lie below a percentile of the calibration rows; words where they do."""
    rows, below = new.get("rows_scored", 0.0), new.get(f"rows_below_percentile_{percentile:g}", 0.0)
    if limit is None or not rows:
        return []
    if not _is_placed(new):
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
    """Whether the mean log-density moved too far, in robust standard deviations of the calibration rows; words where it did."""
    if limit is None or not new.get("rows_scored") or not before.get("rows_scored"):
        return []
    if not _is_placed(new):
        return [
            "gate.max_mean_drift cannot be judged: no row calibrates; raise calibration_share, or leave the limit out"
        ]
    now, then = (one.get("log_density_shifts", 0.0) / one["rows_scored"] for one in (new, before))
    if abs(now - then) <= limit:
        return []
    return [
        f"the mean log-density of {new['rows_scored']:,.0f} new rows lies {abs(now - then):.4g} standard deviations "
        f"{'above' if now > then else 'below'} that of the rows before, gate.max_mean_drift is {limit:g}"
    ]


def _is_placed(rows: Mapping[str, float]) -> bool:
    """Whether there was anything to compare rows with."""
    return bool(rows.get("rows_placed")) or rows.get("rows_scored") == rows.get("rows_without_density")


def few_threshold(samples: int) -> float:
    """Effective samples below which an estimate hangs on a handful of them."""
    return min(FEW, samples / 2)


def few_samples(counters: Mapping[str, float], samples: int) -> list[str]:
    """A warning where many estimates hang on a few samples."""
    few, rows = counters.get("rows_with_few_samples", 0.0), counters.get("rows_scored", 0.0)
    if not rows or few / rows <= FEW_ROWS:
        return []
    return [
        f"{few / rows:.1%} of the rows have an effective sample size below {few_threshold(samples):g}: log_density is too low for "
        f"them, and density_stderr itself uncertain; raise samples (now {samples}), or train a better encoder"
    ]
