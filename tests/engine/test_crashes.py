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
@pytest.mark.timeout(1200)
def test_kill_nine_at_commit_steps(corpus: Path, workplace: Path) -> None:
    """Every seventh step, which meets all three kinds of step; `KXBATCH_CRASH_STRIDE=1` kills at each of them."""
    job = audit_job(hubness={"block_rows": 100}) | {"input": {"path": ["data/*.jsonl"], "id": "doc"}}
    job["stage"] = [stage for stage in job["stage"] if stage.get("name") != "before"]
    stride = int(os.environ.get("KXBATCH_CRASH_STRIDE", "7"))
    facts = kill_at_every_step(workplace, job, stride)
    print(facts)
    assert facts["kills"] == len(range(1, facts["steps"] + 1, stride)), "every trial really died"
    assert facts["steps"] > 100
    assert facts["files"] >= 12
    assert facts["different"] == [], "bytes differ from those of an undisturbed run"
    assert facts["failed"] == [], "the run after the kill did not end with exit status 0"
