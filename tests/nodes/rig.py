"""What the tests of this folder run: a cluster and a driver, each a process of its own, and a job that tells where it was done."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow.parquet as pq
from conftest import ENCODER
from support import audit_job, tree_digests, write_texts

HERE = Path(__file__).parent
APART = ["unshare", "-rnm"]  # name spaces that need no privileges, where the system permits them at all
ROOT = Path(__file__).parents[2]
# Ray binds to loopback alone on systems where it has no clusters, and else goes to the outward address whatever it was told.
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
HASTE = {
    "RAY_health_check_timeout_ms": "3000",
    "RAY_health_check_period_ms": "1000",
}  # or a silent node passes for a minute
JOURNAL = '''
"""The cheap encoder, which writes down where it is called.

It waits while there is a file `hold` and there were more calls than that says, or a file `hold-HOST`.
"""
import json, os, pathlib, socket, time
from trigrams import embed as fast

HERE = pathlib.Path(__file__).parent

def held(calls):
    if (HERE / f"hold-{socket.gethostname()}").exists():
        return True
    try:
        return calls > int((HERE / "hold").read_text())
    except FileNotFoundError:
        return False

def embed(texts):
    import ray
    node = ray.get_runtime_context().get_node_id() if ray.is_initialized() else ""
    if len(texts) > 1:
        host = socket.gethostname()
        with (HERE / "journal.jsonl").open("a") as file:
            file.write(json.dumps({"node": node, "host": host, "pid": os.getpid()}) + "\\n")
        calls = len((HERE / "journal.jsonl").read_text().splitlines())
        while held(calls):
            time.sleep(0.05)
        (HERE / f"passed-{host}").touch()
    return fast(texts)
'''


class NodesDown(Exception):
    """The cluster did not do what it was told."""


class _Script:
    """A script that keeps a cluster up, takes commands line by line, and answers each with facts."""

    def __init__(self, command: Sequence[str], environment: dict[str, str]) -> None:
        pipe = subprocess.PIPE
        environment = os.environ | environment
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, env=environment, text=True, start_new_session=True
        )
        self._listen()

    def _listen(self) -> None:
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise NodesDown(f"the cluster ended with status {self._process.wait()}")
        self.facts: dict[str, Any] = json.loads(line)

    def tell(self, command: str) -> None:
        """Do a command of the script, and wait until it is done."""
        pipe = _pipe(self._process.stdin)
        pipe.write(command + "\n")
        pipe.flush()
        self._listen()

    def end(self) -> None:
        """End every process of the cluster."""
        pipe = _pipe(self._process.stdin)
        pipe.write("end\n")
        pipe.close()
        self._process.wait(timeout=60)


class RayNodes(_Script):
    """A cluster of several nodes on this machine; see `cluster_script`."""

    def __init__(self, folder: Path, *cpus: float) -> None:
        super().__init__([sys.executable, str(HERE / "cluster_script.py"), str(folder), *map(str, cpus)], LOOPBACK)

    @property
    def address(self) -> str:
        """What to connect to."""
        return str(self.facts["address"])

    @property
    def nodes(self) -> list[str]:
        """The living nodes, the head first."""
        return list(self.facts["nodes"])


class RayNetwork(_Script):
    """A cluster of machines in miniature; see `network_script`."""

    address = "10.77.0.1:6379"

    def __init__(self, shared: Path, count: int) -> None:
        self._token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "OMP_NUM_THREADS": "1"}
        script = [sys.executable, str(HERE / "network_script.py"), str(shared), str(count)]
        super().__init__([*APART, *script], self._token | HASTE)

    def driver(self, workplace: Path, name: str, folder: str = "/mnt/shared") -> Driver:
        """Start a driver on the head, in a folder there."""
        return Driver(workplace, name, [*self.enter(1), "sh", "-c", 'cd "$0" && exec "$@"', folder], self._token)

    def enter(self, number: int) -> list[str]:
        """What to put before a command so that it runs on a machine."""
        pid = self.facts["pids"][number - 1]
        return ["nsenter", "-t", pid, "-U", "--preserve-credentials", "-n", "-m", "-p", "-u"]

    def has_workers(self, number: int) -> bool:
        """Whether a worker of a run lives on a machine."""
        return subprocess.run([*self.enter(number), "pgrep", "-f", "ray::_Actor"], capture_output=True).returncode == 0


def _pipe(pipe: IO[str] | None) -> IO[str]:
    assert pipe is not None
    return pipe


class Driver:
    """`kxbatch run` as a user starts it."""

    def __init__(
        self, workplace: Path, name: str, launcher: Sequence[str] = (), environment: dict[str, str] = LOOPBACK
    ) -> None:
        self._out, self._err = workplace / f"{name}.out", workplace / f"{name}.err"
        command = [
            *launcher,
            sys.executable,
            "-m",
            "kxbatch",
            "run",
            f"{name}.toml",
            "--json",
            "--quiet",
            "--no-report",
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(command, cwd=workplace, env=environment, stdout=out, stderr=err)

    def result(self, timeout: float = 200) -> tuple[int, dict[str, Any]]:
        """Exit status and what it printed; an empty mapping if it printed nothing."""
        status = self.process.wait(timeout=timeout)
        return status, json.loads(self.printed) if self.printed else {}

    @property
    def printed(self) -> str:
        """What it wrote to standard output."""
        return self._out.read_text()

    @property
    def complaints(self) -> str:
        """What it wrote to standard error."""
        return self._err.read_text()


class Workplace:
    """A corpus, encoders, jobs over them, and what one process made of them: the measure of every other run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "trigrams.py").write_text(ENCODER)
        (folder / "journal.py").write_text(JOURNAL)
        for number in range(6):
            write_texts(folder / f"data/texts-{number}.jsonl", number * 40, 40)
        self._rows: list[tuple[str, ...]] = []
        self._measure: dict[str, str] = {}

    def run_undisturbed(self) -> None:
        """Run the job in one process."""
        driver, output = self.start("inline", "")
        status, _ = driver.result()
        assert status == 0, driver.complaints
        self._measure = tree_digests(output)

    def hold(self, after: int) -> None:
        """Let the next calls of the encoder pass, and those after them wait until `release`."""
        (self.folder / "hold").write_text(str(len(self.journal()) + after))

    def await_calls(self, driver: Driver, *nodes: str) -> None:
        """Wait until a shard is being done on each of these nodes or hosts in the run that was started last."""

        def at_work() -> bool:
            assert driver.process.poll() is None, driver.printed + driver.complaints
            return set(nodes) <= {entry[key] for entry in self.journal()[self._started :] for key in ("node", "host")}

        until(at_work, f"at work: {nodes}")

    def release(self) -> None:
        """Let all calls of the encoder pass."""
        (self.folder / "hold").unlink()

    def hold_on(self, host: str) -> None:
        """Let the calls on a host wait, until `release_on`."""
        (self.folder / f"hold-{host}").touch()

    def release_on(self, host: str, ended: Callable[[], bool]) -> None:
        """Let the call on a host pass, and wait until it did or its process has `ended`."""
        passed = self.folder / f"passed-{host}"
        passed.unlink(missing_ok=True)
        (self.folder / f"hold-{host}").unlink()
        until(lambda: passed.exists() or ended(), f"past its wait on {host}")

    def write_job(self, name: str, address: str, seen_as: str = "", **resources: Any) -> Path:
        """A job file for the audit job with the telling encoder; returns its output folder.

        Args:
            name: of the job file and of the output folder.
            address: of the cluster; none for one process.
            seen_as: what the cluster calls this folder, if not by its own name.
            resources: of every stage.
        """
        job = audit_job("ray" if address else "inline", embed={"model": "callable:journal:embed"})
        output = self.folder / "out" / name
        folder = seen_as or str(self.folder)
        job["input"]["path"] = [f"{folder}/data/*.jsonl"]
        job["job"] |= {"output": f"{folder}/out/{name}"} | ({"address": address} if address else {})
        lines = [f"[{section}]\n" + _keys(job[section]) for section in ("job", "input")]
        for stage in job["stage"]:
            lines.append("[[stage]]\n" + _keys(stage))
            lines.append("[stage.resources]\n" + _keys(resources))
        (self.folder / f"{name}.toml").write_text("\n".join(lines))
        return output

    def start(self, name: str, address: str, **resources: Any) -> tuple[Driver, Path]:
        """Start or resume a run on a cluster of this machine; returns it and its output folder."""
        output = self.write_job(name, address, **resources)
        self._started = len(self.journal())
        return Driver(self.folder, name), output

    def start_in(self, network: RayNetwork, name: str, **resources: Any) -> tuple[Driver, Path]:
        """Start or resume a run on the head of a network; returns it and its output folder."""
        output = self.write_job(name, network.address, "/mnt/shared", **resources)
        self._started = len(self.journal())
        return network.driver(self.folder, name), output

    def finish(self, driver: Driver, output: Path, scenario: str, change: str) -> int:
        """Wait for a run that should have done everything, and check that it did; returns its exit status."""
        status, facts = driver.result()
        assert status == 0, (facts, driver.complaints)
        assert facts["failures"] == []
        found, expected = list(_ids(output)), {f"d{row:04d}" for row in range(240)}
        lost, doubled = len(expected - set(found)), len(found) - len(set(found))
        same = tree_digests(output) == self._measure
        nodes = f"{len(self.nodes_of(output))} at work"
        self._rows.append((scenario, nodes, change, str(status), str(lost), str(doubled), "yes" if same else "NO"))
        assert (lost, doubled, same) == (0, 0, True)
        return status

    def table(self) -> str:
        """All scenarios so far, as Markdown."""
        head = ("scenario", "nodes", "killed or joined", "exit", "rows lost", "rows doubled", "same bytes")
        return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *self._rows))

    def journal(self) -> list[dict[str, Any]]:
        """Every call of the encoder for a shard: node, host and process."""
        path = self.folder / "journal.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def nodes_of(self, output: Path) -> set[str]:
        """Nodes that finished shards of an output."""
        place = {f"{entry['host']}/{entry['pid']}": entry["node"] for entry in self.journal()}
        return {place[receipt["worker"]] for receipt in receipts(output)} - {""}


def _keys(section: dict[str, Any]) -> str:
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in section.items())


def receipts(output: Path) -> list[dict[str, Any]]:
    """Receipts of the embed stage's shards as they are on disk."""
    return [json.loads(p.read_text()) for p in sorted((output / "embed/_kxbatch/receipts/map").glob("*.json"))]


def until(happened: Callable[[], Any], what: str, timeout: float = 60) -> None:
    """Wait for something to happen."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert time.monotonic() < deadline, f"in {timeout:g} s: not {what}"
        time.sleep(0.05)


def _ids(output: Path) -> Iterator[str]:
    """Ids of the last stage's rows as its parts hold them, doubles and all."""
    for part in sorted((output / "hubness").glob("part-*.parquet")):
        yield from pq.read_table(part, columns=["id"]).column("id").to_pylist()
