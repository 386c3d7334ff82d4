"""What Ray workers die of: the shard is tried again, parked after its attempts, and the rest goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import audit_job, tree_digests

import kxbatch as kx
from kxbatch.engine.result import RunResult

pytestmark = pytest.mark.usefixtures("corpus", "ray_session")

SICK = '''
import os, pathlib, signal, time
from trigrams import embed as healthy

def once(texts):
    """Dies the first time it sees row 41, and never again."""
    if any(t.endswith(" 41") for t in texts) and not pathlib.Path(r"{flag}").exists():
        pathlib.Path(r"{flag}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return healthy(texts)

def always(texts):
    if any(t.endswith(" 41") for t in texts):
        os.kill(os.getpid(), signal.SIGKILL)
    return healthy(texts)

def hangs(texts):
    if any(t.endswith(" 41") for t in texts):
        time.sleep(3600)
    return healthy(texts)

def raises(texts):
    if any(t.endswith(" 41") for t in texts):
        raise RuntimeError("the model does not like row 41")
    return healthy(texts)
'''


@pytest.fixture(autouse=True)
def sick(workplace: Path) -> None:
    (workplace / "sick.py").write_text(SICK.format(flag=workplace / "flag"))


def run(function: str, **resources: Any) -> RunResult:
    model = f"callable:sick:{function}"
    job = audit_job("ray", embed={"model": model, "resources": {"workers": 2, **resources}})
    return kx.run(job, quiet=True, report=False)


def embed_failures(result: RunResult) -> list[tuple[str, str, int]]:
    return [(f.phase, f.error, f.attempt) for f in result.failures]


def test_a_worker_killed_once_costs_nothing(workplace: Path) -> None:
    result = run("once")
    assert (workplace / "flag").exists()
    assert (result.exit_code, result.stages[0].rows_out) == (0, 120)
    first = tree_digests(workplace / "out/audit")
    kx.run(audit_job("ray", embed={"model": "callable:sick:once"}), quiet=True, report=False)
    assert tree_digests(workplace / "out/audit") == first


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [("always", "WorkerDied", "died"), ("raises", "RuntimeError", "does not like row 41")],
)
def test_a_poisoned_shard_is_parked_and_the_rest_goes_on(function: str, error: str, words: str) -> None:
    result = run(function, attempts=2)
    assert (result.exit_code, result.status) == (3, "incomplete")
    assert embed_failures(result) == [("map", error, 2)]
    assert words in result.failures[0].message
    embed = result.stages[0]
    assert embed.failed == 1
    assert 100 <= embed.rows_out < 120
    assert [stage.rows_out for stage in result.stages] == [embed.rows_out] * 4, "later stages go on with what there is"


def test_a_mended_shard_joins_and_the_transform_is_fitted_on_all(workplace: Path) -> None:
    assert run("raises", attempts=1).exit_code == 3
    (workplace / "sick.py").write_text("from trigrams import embed as raises\n")
    assert run("raises").exit_code == 0
    mended = tree_digests(workplace / "out/audit")
    job = audit_job("ray", embed={"model": "callable:sick:raises"})
    job["job"]["output"] = "out/whole"
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    assert tree_digests(workplace / "out/whole") == mended


def test_a_worker_that_hangs_is_ended_with_the_name_of_the_limit() -> None:
    started = time.monotonic()
    result = run("hangs", attempts=1, timeout=3)
    assert time.monotonic() - started < 60
    assert embed_failures(result) == [("map", "Timeout", 1)]
    assert "no answer within 3 s (resources.timeout)" in result.failures[0].message


def test_a_cluster_too_small_is_a_configuration_error() -> None:
    result = kx.run(audit_job("ray", embed={"resources": {"cpus": 64}}), quiet=True, report=False)
    assert result.exit_code == 2
    assert "64 CPUs" in result.message


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_on_ray_that_is_ended_resumes(workplace: Path, sent: int) -> None:
    slow = "import time\nfrom trigrams import embed as fast\ndef embed(texts):\n    time.sleep(0.4)\n    return fast(texts)\n"
    (workplace / "slow.py").write_text(slow)
    job = audit_job("ray", embed={"model": "callable:slow:embed"})
    script = f"import kxbatch, sys; sys.exit(kxbatch.run({job!r}, quiet=True, report=False).exit_code)"
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=workplace, env=os.environ | {"PYTHONPATH": str(workplace)}
    )
    receipts = workplace / "out/audit/embed/_kxbatch/receipts/map"
    deadline = time.monotonic() + 90
    while len(list(receipts.glob("part-*.json")) if receipts.exists() else []) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    status = process.wait(timeout=60)
    assert status == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[signal.Signals(sent)]
    half = len(list(receipts.glob("part-*.json")))
    job["job"]["executor"] = "inline"
    result = kx.run(job, quiet=True, report=False)
    assert result.exit_code == 0
    reused = [unit["reused"] for unit in result.stages[0].units]
    assert sum(reused) >= min(3, half)
    job["job"]["output"] = "out/whole"
    kx.run(job, quiet=True, report=False)
    assert tree_digests(workplace / "out/audit") == tree_digests(workplace / "out/whole")
