"""kill -9 at every step of every commit: the next run completes, and the output is that of an undisturbed run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import audit_job

SCRIPT = Path(__file__).with_name("crash_script.py")


def kill_at_every_step(workplace: Path, job: dict[str, Any], stride: int) -> dict[str, Any]:
    (workplace / "job.json").write_text(json.dumps(job))
    paths = os.pathsep.join([str(workplace), str(SCRIPT.parents[1])])
    command = [sys.executable, str(SCRIPT), str(stride)]
    done = subprocess.run(
        command, cwd=workplace, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_nine_at_every_commit_step(corpus: Path, workplace: Path) -> None:
    facts = kill_at_every_step(workplace, audit_job() | {"input": {"path": ["data/*.jsonl"], "id": "doc"}}, stride=1)
    assert facts["kills"] >= 60, facts
    assert facts["files"] >= 16, facts
    assert facts["different"] == [], "bytes differ from those of an undisturbed run"
    assert facts["failed"] == [], "the run after the kill did not end with exit status 0"
