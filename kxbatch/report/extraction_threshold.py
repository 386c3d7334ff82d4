"""The threshold of an extract stage: the one that was set, or what its model does without one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kxbatch.data.storage import Folder
from kxbatch.report.loading import load
from kxbatch.report.record import Record, Run
from kxbatch.stages.base import trained_stage

CONFIG = "config.json"  # of an extractor
DEFAULT = 0.0  # log odds
BEST_TAGS = "none; the best tags of the CRF"
UNKNOWN = "0; of a CRF, its best tags"


class _Model(Record):
    head: str


def threshold(output: Folder, run: Run, stage: Mapping[str, Any]) -> tuple[float | None, str]:
    """The score that an entity must exceed, in log odds; None and words where it is no number, or is not known.

    Raises:
        DataError: the configuration of the model is damaged.
    """
    given = stage.get("threshold")
    if isinstance(given, int | float) and math.isfinite(given):
        return float(given), ""
    folder = _folder(output, run, str(stage.get("model", "")))
    model = None if folder is None else load(folder, CONFIG, _Model)
    if model is None:
        return None, UNKNOWN
    return (None, BEST_TAGS) if model.head == "crf" else (DEFAULT, "")


def _folder(output: Folder, run: Run, model: str) -> Folder | None:
    """Where the model is: what a stage of the job left, or a folder that is still there."""
    name = trained_stage(model)
    if name is None:
        return Folder(model) if Path(model, CONFIG).is_file() else None
    known = any(stage.get("name") == name for stage in run.job.get("stage", ()))
    return output.child(name, "_artifact") if known else None
