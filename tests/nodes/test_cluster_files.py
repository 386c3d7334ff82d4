"""`cluster/head.sh` and `cluster/join.sh`: a cluster that wants a token, and a job that runs on it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

CLUSTER = Path(__file__).parents[2] / "cluster"
JOB = """
[job]
name = "cluster"
output = "out"
executor = "ray"
[input]
path = "data/*.jsonl"
id = "doc"
shard_size = "1kB"
[[stage]]
kind = "embed"
column = "text"
model = "callable:trigrams:embed"
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(home: Path, **more: str) -> dict[str, str]:
    """Of somebody with this home folder; the cluster of the test listens on loopback alone."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own = {"HOME": str(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return kept | own | {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"} | more


@contextlib.contextmanager
def started(command: list[str], home: Path) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(command, env=environment(home), start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Address of a head node, and the home folder that has its token."""
    home = Path(tmp_path_factory.mktemp("h"))
    port = free_port()
    options = ["--block", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=1", f"--temp-dir={home}/ray"]
    with started([str(CLUSTER / "head.sh"), *options, "--object-store-memory=100000000"], home):
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end, "the head never answered"
            time.sleep(0.2)
        yield f"127.0.0.1:{port}", home


def run(address: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kxbatch", "run", "job.toml", "--address", address, "--no-report", "-q"]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=240)


@pytest.mark.slow
def test_only_who_has_the_token_runs_jobs(corpus: Path, head: tuple[str, Path], tmp_path: Path) -> None:
    address, home = head
    Path("job.toml").write_text(JOB)
    token = home / ".ray/auth_token"
    assert token.stat().st_mode & 0o077 == 0, "nobody else reads the token"
    wrong = run(address, environment(tmp_path, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 32))
    assert wrong.returncode == 1, wrong.stderr
    assert "cannot connect" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    assert not list(Path("out").rglob("part-*")), "nothing ran"
    right = run(address, environment(home, RAY_AUTH_MODE="token"))
    assert right.returncode == 0, right.stderr
    assert len(list(Path("out/embed").glob("part-*"))) == 9


def test_joining_without_a_token_says_what_is_missing(tmp_path: Path) -> None:
    done = subprocess.run([CLUSTER / "join.sh", "head:6379"], env=environment(tmp_path), capture_output=True, text=True)
    assert done.returncode == 2
    assert "no token" in done.stderr
