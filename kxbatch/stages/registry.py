"""Finds the stages: every module in this package that has a `STAGE`."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import Any

import kxbatch.stages
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Stage


@cache
def stage_types() -> dict[str, type[Stage[Any]]]:
    """Stage kind -> its class, sorted by kind. Stage modules import nothing heavy at their top."""
    found: dict[str, type[Stage[Any]]] = {}
    for module in pkgutil.iter_modules(kxbatch.stages.__path__):
        stage: type[Stage[Any]] | None
        stage = getattr(importlib.import_module(f"kxbatch.stages.{module.name}"), "STAGE", None)
        if stage is not None:
            found[str(stage.config_type.model_fields["kind"].default)] = stage
    return dict(sorted(found.items()))


def config_types() -> dict[str, type[StageConfig]]:
    """Stage kind -> its configuration type."""
    return {kind: stage.config_type for kind, stage in stage_types().items()}
