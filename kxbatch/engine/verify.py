"""Re-reads everything that an output claims to have: every receipt against its file, and every file against the receipts."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import File, Folder, output_folder
from kxbatch.engine.defects import Defect, recorded_defects, save_defects
from kxbatch.engine.lease import is_held, read_lease
from kxbatch.engine.links import check_no_links
from kxbatch.engine.manifest import MANIFEST, read_manifest
from kxbatch.engine.output import recorded_phases
from kxbatch.engine.record import RECORD, read_record
from kxbatch.engine.stage_check import Checked, StageCheck
from kxbatch.errors import ConfigError, FatalError, LeaseHeld, nearest
from kxbatch.stages.base import Phase

_ACCOUNTING: tuple[Phase, ...] = ("map", "survey", "fold")


@dataclass
class Verification:
    """What `verify` found.

    Attributes:
        output: the folder.
        stages: what was compared.
        defects: what is not as it should be.
        recorded: whether the defects are on record for the next run; a folder that cannot be written keeps none.
    """

    output: str
    stages: list[Checked] = field(default_factory=list)
    defects: list[Defect] = field(default_factory=list)
    recorded: bool = True


def verify(path: str | Path, *, stage: str | None = None) -> Verification:
    """Compare an output with its receipts, and put defects on record, so that the next run does those units again.

    Args:
        path: the output.
        stage: only this one.

    Raises:
        ConfigError: no output, or no such stage.
        LeaseHeld: a run is at work; what it is writing would look like defects.
    """
    output = output_folder(str(path), Path.cwd())
    names = _stages(output)
    if stage is not None and stage not in names:
        raise ConfigError(f"{output.path}: no stage '{stage}'{nearest(stage, names)} (has: {', '.join(names)})")
    check_no_links(output, names)
    token = _idle_token(output)
    found = Verification(output.path)
    units, phases = _recorded(output, found.defects)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for name in [stage] if stage is not None else names:
            check = StageCheck(output, name, lambda paths: list(pool.map(File.digest, paths)))
            check.run(units.get(name, frozenset()), phases.get(name) or _apparent_phase(output.child(name)))
            found.stages.append(check.checked)
            found.defects += check.defects
    found.defects += _leftovers(output, stage)
    if _idle_token(output) != token:
        raise LeaseHeld(f"{output.path}: a run came in between; verify again when it is done")
    _record(output, stage, found)
    return found


def _stages(output: Folder) -> list[str]:
    """Stages that left something, those of the job first, in its order."""
    found = [name for name in output.listing().folders if output.child(name, BOOKKEEPING).exists()]
    if not found and not output.exists(RECORD):
        what = "is no output of kxbatch" if output.exists() else "does not exist"
        raise ConfigError(f"{output.path} {what}; give the folder that job.output names, after a run")
    try:
        record = read_record(output) or {"job": {"stage": []}, "stages": []}
    except FatalError:  # reported as a defect of its own
        return found
    found = sorted({*found, *(entry["name"] for entry in record["stages"] if entry["units"])})  # also one that is gone
    order = [entry["name"] for entry in record["job"]["stage"]]
    return sorted(found, key=lambda name: (order.index(name) if name in order else len(order), name))


def _idle_token(output: Folder) -> int:
    lease = read_lease(output)
    if lease is not None and is_held(lease):
        raise LeaseHeld(f"{output.path}: run {lease['run']} is at work since {lease['since']}; verify when it is done")
    return int(lease["token"]) if lease else 0


def _recorded(output: Folder, defects: list[Defect]) -> tuple[dict[str, frozenset[str]], dict[str, Phase]]:
    """Stage -> units that the last run found or made good, and their phase; checks the documents of the output on the way."""
    record = None
    try:
        read_manifest(output)
    except FatalError as error:
        defects.append(Defect("", "", MANIFEST, str(error)))
    try:
        record = read_record(output)
    except FatalError as error:
        defects.append(Defect("", "", RECORD, str(error)))
    if defects or record is None:
        return {}, {}
    units = {entry["name"]: frozenset(unit["key"] for unit in entry["units"]) for entry in record["stages"]}
    return units, recorded_phases(record)


def _apparent_phase(stage: Folder) -> Phase:
    """The phase that accounts for a stage's rows, as far as its receipts tell."""
    there = stage.child(BOOKKEEPING, "receipts").listing().folders
    return next((phase for phase in _ACCOUNTING if phase in there), "map")


def _leftovers(output: Folder, stage: str | None) -> list[Defect]:
    words = "left by a writer that died; the next run removes it"
    parts = [name.partition("/") for name in output.leftovers()]
    found = [Defect(first, "", rest, words) if rest else Defect("", "", first, words) for first, _, rest in parts]
    return [defect for defect in found if stage in (None, defect.stage)]


def _record(output: Folder, stage: str | None, found: Verification) -> None:
    """Defects of stages that were not looked at now stay on record."""
    kept = [] if stage is None else [defect for defect in recorded_defects(output) if defect.stage != stage]
    try:
        save_defects(output, [*kept, *found.defects])
    except (FatalError, PermissionError):
        found.recorded = not found.defects
