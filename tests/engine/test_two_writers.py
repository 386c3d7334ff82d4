"""Two runs on one output, on a disk and through an object store: one works, the other leaves; no lease, no publication."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from storage.s3_server import CREDENTIALS, bucket_keys, bucket_objects, s3_client, s3_server
from support import audit_job

WAITING = """
import time
from pathlib import Path
import trigrams

def embed(texts):
    Path("started").touch()
    while not Path("go").exists():
        time.sleep(0.05)
    return trigrams.embed(texts)
"""
RUN = """
import json, socket, sys
from datetime import datetime, timedelta
import kxbatch
from kxbatch.engine import lease

lease.HEARTBEAT, lease.LAPSE, lease.WATCH = 0.2, 2.0, 1.0
if sys.argv[1] != "here":  # as a run on another host shows itself
    socket.gethostname, lease._system = (lambda: sys.argv[1]), (lambda: sys.argv[1])
now = lease._now
lease._now = lambda: (datetime.fromisoformat(now()) + timedelta(seconds=int(sys.argv[3]))).isoformat()
try:
    result = kxbatch.run(json.loads(sys.argv[2]), quiet=True, report=False)
    print(result.status, result.message, flush=True)
    sys.exit(result.exit_code)
except kxbatch.errors.KxbatchError as error:
    print(error, flush=True)
    sys.exit(error.exit_code)
"""


@dataclass
class Place:
    """Where the output is, and how to look at all of it."""

    output: str
    client: Any = None

    def read(self, name: str) -> str:
        return next(data for path, data in self.files().items() if path.endswith(name)).decode()

    def files(self) -> dict[str, bytes]:
        if self.client is not None:
            return bucket_objects(self.client, "bucket")
        return {str(p): p.read_bytes() for p in sorted(Path(self.output).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as url:
        yield url


@pytest.fixture(params=["disk", "s3"])
def place(
    request: pytest.FixtureRequest, corpus: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    (workplace / "waiting.py").write_text(WAITING)
    if request.param == "disk":
        yield Place(str(workplace / "out"))
        return
    url = request.getfixturevalue("endpoint")
    for name, value in (CREDENTIALS | {"AWS_ENDPOINT_URL": url}).items():
        monkeypatch.setenv(name, value)
    client = s3_client(url)
    client.create_bucket(Bucket="bucket")
    yield Place("s3://bucket/out", client)
    for key in bucket_keys(client, "bucket"):
        client.delete_object(Bucket="bucket", Key=key)
    client.delete_bucket(Bucket="bucket")


def start(place: Place, host: str = "here", skew: int = 0) -> subprocess.Popen[str]:
    described = audit_job(embed={"model": "callable:waiting:embed"})
    described["job"]["output"] = place.output
    described["stage"] = described["stage"][:1]
    command = [sys.executable, "-c", RUN, host, json.dumps(described), str(skew)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    words, _ = process.communicate(timeout=120)
    return process.returncode, words


def until(path: str) -> None:
    end = time.monotonic() + 120
    while not Path(path).exists():
        assert time.monotonic() < end, f"{path} never came"
        time.sleep(0.05)


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_the_second_run_leaves_and_says_who_is_at_work(place: Place, host: str) -> None:
    first = start(place, host)
    until("started")
    status, words = finish(start(place))
    assert status == 75
    named = r"elsewhere" if host == "elsewhere" else f"(process {first.pid})"
    assert named in words
    assert "holds the lease since 20" in words
    assert "last heartbeat 20" in words
    Path("go").touch()
    assert finish(first)[0] == 0
    assert finish(start(place)) == (0, "unchanged \n")


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_a_dead_holders_lease_is_taken_over(place: Place, host: str) -> None:
    first = start(place, host)
    until("started")
    first.kill()
    first.wait()
    Path("go").touch()
    end = time.monotonic() + 60
    while (second := finish(start(place)))[0] == 75:  # on another host nobody knows before the heartbeat lapses
        assert host == "elsewhere", "a process that died here holds nothing"
        assert time.monotonic() < end
    assert second == (0, "done \n")


@pytest.mark.parametrize("skew", [-3600, 3600])
def test_a_living_holder_keeps_its_lease_whatever_its_clock_says(place: Place, skew: int) -> None:
    first = start(place, "elsewhere", skew)
    until("started")
    beat = datetime.fromisoformat(re.search(r'"heartbeat": "(.*)"', place.read("_kxbatch/lease.json"))[1])
    assert abs((beat - datetime.now(UTC)).total_seconds() - skew) < 60
    assert finish(start(place))[0] == 75
    Path("go").touch()
    assert finish(first)[0] == 0


def test_a_holder_that_wakes_up_too_late_publishes_nothing(place: Place) -> None:
    first = start(place)
    until("started")
    first.send_signal(signal.SIGSTOP)
    time.sleep(2.5)  # its heartbeat lapses
    Path("go").touch()
    assert finish(start(place)) == (0, "done \n")
    after = place.files()
    first.send_signal(signal.SIGCONT)
    status, words = finish(first)
    assert status == 1
    assert "lost its lease" in words
    logs = {name for name in after if name.endswith("log.jsonl")}  # on a disk both append to it
    left = place.files()
    assert {k: v for k, v in left.items() if k not in logs} == {k: v for k, v in after.items() if k not in logs}
    assert all(left[name].startswith(after[name]) for name in logs)


def test_many_at_once_one_of_them_works(place: Place) -> None:
    Path("go").touch()
    statuses = sorted(finish(run)[0] for run in [start(place, host) for host in "abcd"])
    assert statuses[0] == 0
    assert set(statuses) <= {0, 75}
    receipts = [json.loads(data) for name, data in place.files().items() if "/receipts/map/" in name]
    assert len(receipts) == 9
    assert len({receipt["token"] for receipt in receipts}) == 1, "one run did all of it"
