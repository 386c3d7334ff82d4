"""A local Ray cluster is reachable from this machine only, and has no dashboard."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from support import write_texts

SLOW = """
import time
import numpy as np

def embed(texts):
    time.sleep(len(texts) * 0.4)
    return np.ones((len(texts), 4), np.float32)
"""
JOB = """
[job]
name = "ports"
output = "out/ports"
executor = "ray"
[input]
path = "data/*.jsonl"
[[stage]]
kind = "embed"
column = "text"
model = "callable:slow:embed"
"""


def tree(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def listening(processes: list[psutil.Process]) -> dict[tuple[str, int], str]:
    """Address and port -> name of the process, of every listening TCP socket."""
    found = {}
    for process in processes:
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found[connection.laddr.ip, connection.laddr.port] = process.name()
        except psutil.Error:  # it ended meanwhile
            continue
    return found


@pytest.mark.slow
def test_every_port_of_a_local_cluster_is_on_loopback(workplace: Path) -> None:
    write_texts(Path("data/a.jsonl"), 0, 40)
    Path("slow.py").write_text(SLOW)
    Path("job.toml").write_text(JOB)
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    run = subprocess.Popen([sys.executable, "-m", "kxbatch", "run", "job.toml", "-q"], env=environment)
    found: dict[tuple[str, int], str] = {}
    names: set[str] = set()
    try:
        while run.poll() is None:
            processes = tree(psutil.Process(run.pid))
            found |= listening(processes)
            names |= {" ".join(_command(process)) for process in processes}
            time.sleep(0.3)
    finally:
        if run.poll() is None:
            run.terminate()
            run.wait(30)
    assert run.returncode == 0
    assert found, "nothing listened: not looked at the right processes"
    outside = {
        f"{ip}:{port}": name for (ip, port), name in found.items() if ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    }
    assert not outside, f"reachable from other machines: {outside}"
    assert 8265 not in {port for _, port in found}
    assert not [name for name in names if "dashboard/dashboard.py" in name and "--disable-frontend" not in name]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
