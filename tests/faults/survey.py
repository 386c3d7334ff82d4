"""What is in an output, row by row, and how it differs from the output of a run that nothing disturbed."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from support import tree_digests


@dataclass(frozen=True)
class Survey:
    """An output as its readers find it.

    Attributes:
        digests: of all parts and artifacts.
        rows: stage -> how often each id is in its parts.
        aside: stage -> rows in its quarantine, without the run that set them aside.
        temporaries: files that writers left.
    """

    digests: dict[str, str]
    rows: dict[str, Counter[str]]
    aside: dict[str, list[Any]]
    temporaries: list[str]


def survey(output: Path) -> Survey:
    """Look at an output."""
    stages = sorted(path.parent.name for path in output.glob("*/_kxbatch"))
    return Survey(
        tree_digests(output),
        {stage: Counter(_ids(sorted((output / stage).glob("part-*.parquet")))) for stage in stages},
        {stage: _aside(output / stage / "_kxbatch/quarantine") for stage in stages},
        [str(path.relative_to(output)) for path in output.rglob(".tmp-*")],
    )


def lost_and_doubled(found: Survey, oracle: Survey) -> tuple[int, int]:
    """Rows that are missing and rows that are too many, over all stages and their quarantines."""
    lost = doubled = 0
    for stage, rows in oracle.rows.items():
        have = found.rows.get(stage, Counter())
        aside = Counter(json.dumps(row) for row in found.aside.get(stage, []))
        wanted = Counter(json.dumps(row) for row in oracle.aside[stage])
        lost += (rows - have).total() + (wanted - aside).total()
        doubled += (have - rows).total() + (aside - wanted).total()
    return lost, doubled


def differences(found: Survey, oracle: Survey) -> list[str]:
    """What is not as a run that nothing disturbed leaves it."""
    problems = []
    if found.digests != oracle.digests:
        names = sorted(name for name, _ in found.digests.items() ^ oracle.digests.items())
        problems.append(f"files differ: {', '.join(dict.fromkeys(names))}")
    if found.aside != oracle.aside:
        problems.append(f"quarantine differs: {found.aside} instead of {oracle.aside}")
    if found.rows != oracle.rows:
        problems.append(f"{lost_and_doubled(found, oracle)} rows lost, doubled")
    if found.temporaries:
        problems.append(f"temporary files left: {found.temporaries}")
    return problems


def unproven(output: Path) -> list[str]:
    """Receipts that do not hold: each must name a file of the size and the content that it says, at any moment."""
    wrong = []
    for path in output.glob("*/_kxbatch/receipts/*/*.json"):
        receipt = json.loads(path.read_text())
        file = output / path.relative_to(output).parts[0] / receipt["file"]
        if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != receipt["digest"]:
            wrong.append(f"{path.relative_to(output)}: its file is not as it says")
        if receipt["phase"] == "map" and receipt["rows_in"] != receipt["rows_out"] + receipt["quarantined"]:
            wrong.append(f"{path.relative_to(output)}: rows in are not rows out and set aside")
    return wrong


def _ids(parts: list[Path]) -> list[str]:
    """Ids of parts; one that cannot be read has none."""
    found = []
    for part in parts:
        with contextlib.suppress(pa.ArrowException, OSError):
            found += pq.read_table(part, columns=["id"], use_threads=False)["id"].to_pylist()
    return found


def _aside(folder: Path) -> list[Any]:
    found = []
    for path in sorted(folder.glob("*.parquet")):
        with contextlib.suppress(pa.ArrowException, OSError, KeyError):
            found += pq.read_table(path, use_threads=False).drop_columns(["run"]).to_pylist()
    return found
