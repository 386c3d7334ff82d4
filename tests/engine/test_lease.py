"""One run per output, across processes."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support import audit_job

import kxbatch as kx
from kxbatch.data.storage import Folder
from kxbatch.engine.lease import NAME, Lease, check_token, holds, read_lease
from kxbatch.errors import FatalError, LeaseHeld

HOLD = "import sys, time; from kxbatch.engine.lease import Lease; from kxbatch.data.storage import Folder\n"
HOLD += "lease = Lease(Folder(sys.argv[1]), 'other'); lease.acquire(); print('held', flush=True); time.sleep(600)"


@pytest.fixture
def holder(tmp_path: Path) -> subprocess.Popen[str]:
    """A process that holds the lease of `tmp_path/out/audit`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out/audit")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_who_holds_it(holder: subprocess.Popen[str], corpus: Path) -> None:
    try:
        with pytest.raises(LeaseHeld, match=rf"run other on .* \(process {holder.pid}\) holds the lease since 20"):
            kx.run(audit_job(), quiet=True, report=False)
        assert LeaseHeld("").exit_code == 75
    finally:
        holder.kill()


def test_the_lease_of_a_dead_process_is_taken_over(holder: subprocess.Popen[str], corpus: Path) -> None:
    holder.kill()
    holder.wait()
    assert kx.run(audit_job(), quiet=True, report=False).exit_code == 0


def test_a_lease_of_another_host_lapses_with_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.engine.lease.WATCH", 1.0)  # nobody beats here
    output = Folder(str(tmp_path))
    with Lease(output, "first"):
        lease = read_lease(output)
    assert lease is not None

    def left_behind(age: float) -> None:
        beat = datetime.now(UTC) - timedelta(seconds=age)
        output.publish_json(
            NAME, lease | {"held": True, "host": "elsewhere", "system": "elsewhere", "heartbeat": beat.isoformat()}
        )

    left_behind(10)
    with pytest.raises(LeaseHeld, match="elsewhere"):
        Lease(output, "second").acquire()
    for age in (61, -3600):  # lapsed; and a clock that was set back
        left_behind(age)
        with Lease(output, "second") as second:
            assert second.token == lease["token"] + 1


def test_a_run_that_lost_its_lease_publishes_nothing_more(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    with Lease(output, "slept") as slept:
        check_token(output, slept.token)
        stored = json.loads(output.read(NAME))
        output.publish_json(NAME, stored | {"token": slept.token + 1, "run": "woke"})
        assert not holds(output, slept.token)
        with pytest.raises(FatalError, match="lost its lease"):
            check_token(output, slept.token)
    left = read_lease(output)
    assert left is not None
    assert left["run"] == "woke", "the one who lost it does not release another's lease"


def test_tokens_only_grow(tmp_path: Path) -> None:
    output = Folder(str(tmp_path))
    tokens = []
    for name in "abc":
        with Lease(output, name) as lease:
            tokens.append(lease.token)
    assert tokens == [1, 2, 3]
