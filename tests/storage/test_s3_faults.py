"""Whole jobs on a store that fails, with kill -9 in between: the output is, byte for byte, that of a calm run on a local disk."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from storage.faulty_proxy import BODY_KINDS, KINDS, PASSED, FaultyProxy, Plan
from storage.s3_server import bucket_keys, bucket_objects
from support import audit_job, tree_digests

import kxbatch as kx

RUNNER = Path(__file__).with_name("s3_job_runner.py")
TIMEOUT_S = 3.0
MIXED = "mixed"
SHARES = {"stall": 0.01, "drip": 0.1, MIXED: 0.1}
CALM = Plan()


def kill(child: int) -> None:
    os.kill(child, signal.SIGKILL)


class Runner:
    """Runs the job of a folder in child processes, one after the other."""

    def __init__(self, process: subprocess.Popen[str], proxy: FaultyProxy) -> None:
        self._process, self._proxy = process, proxy

    def run(self, after: float = float("inf"), act: Callable[[int], None] = kill) -> tuple[int, int, str]:
        """Run it, and act on it (its process number) once the proxy has seen so many requests more.

        Returns:
            Signal, exit status and message.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        seen = self._proxy.counts.total()
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        child = int(self._process.stdout.readline())
        while _lives(child):
            if self._proxy.counts.total() - seen >= after:
                act(child)
                break
            time.sleep(0.01)
        died, code, message = json.loads(self._process.stdout.readline())
        return died, code, message


def _lives(child: int) -> bool:
    try:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@dataclass
class Trial:
    """A job on the store, and what it must come to."""

    runner: Runner
    proxy: FaultyProxy
    s3: Any
    bucket: str
    wanted: dict[str, str]
    ids: list[str]

    def clear(self) -> None:
        """Remove the output of the trial before."""
        for key in bucket_keys(self.s3, self.bucket):
            if key.startswith("out/"):
                self.s3.delete_object(Bucket=self.bucket, Key=key)

    def different(self) -> list[str]:
        """Parts and artifacts that are not those of the local run."""
        found = {key.removeprefix("out/"): content for key, content in bucket_objects(self.s3, self.bucket).items()}
        digests = {name: hashlib.sha256(found[name]).hexdigest() for name in self.wanted if name in found}
        stray = [name for name in found if "/part-" in name and "/_kxbatch/" not in name and name not in self.wanted]
        return sorted(name for name in self.wanted if digests.get(name) != self.wanted[name]) + stray

    def rows(self) -> tuple[int, int]:
        """Rows lost, and rows doubled, over all stages: every row of the corpus is in a part or in quarantine, once."""
        found: dict[str, Counter[str]] = {}
        for key, content in bucket_objects(self.s3, self.bucket).items():
            _, stage, *rest = key.split("/")
            if key.endswith(".parquet") and (rest[0].startswith("part-") or rest[:2] == ["_kxbatch", "quarantine"]):
                ids = pq.read_table(io.BytesIO(content), columns=["id"])["id"].to_pylist()
                found.setdefault(stage, Counter()).update(ids)
        first = Counter(self.ids)
        passed_on = first - Counter(identity for identity in self.ids if identity.startswith("blank"))
        wanted = {stage: first if stage == "embed" else passed_on for stage in ("embed", "before", "whiten", "hubness")}
        lost = sum((rows - found.get(stage, Counter())).total() for stage, rows in wanted.items())
        doubled = sum((found.get(stage, Counter()) - rows).total() for stage, rows in wanted.items())
        return lost, doubled


@pytest.fixture
def trial(corpus: Path, workplace: Path, proxy: FaultyProxy, s3: Any, bucket: str) -> Iterator[Trial]:
    """A corpus with two rows that go to quarantine, on the store; and what a calm run on a local disk makes of it."""
    blank = [json.dumps({"doc": f"blank-{row}", "text": None, "lang": "xx"}) for row in range(2)]
    with (corpus / "texts-2.jsonl").open("a") as file:
        file.write("\n".join(blank) + "\n")
    lines = [line for path in corpus.iterdir() for line in path.read_text().splitlines()]
    job = audit_job()
    job["input"]["shard_size"] = "4kB"
    job["job"]["quarantine"] = {"max_share": 0.1}
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    for path in corpus.iterdir():
        s3.put_object(Bucket=bucket, Key=f"data/{path.name}", Body=path.read_bytes())
    job["job"]["output"] = f"s3://{bucket}/out"
    job["input"]["path"] = [f"s3://{bucket}/data/*.jsonl"]
    (workplace / "job.json").write_text(json.dumps(job))
    command = [sys.executable, str(RUNNER), "job.json", str(TIMEOUT_S)]
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "KXBATCH_S3_PATIENCE": "20"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=workplace, env=os.environ | environment, **pipes) as process:
        wanted = tree_digests(workplace / "out/audit")
        yield Trial(Runner(process, proxy), proxy, s3, bucket, wanted, [json.loads(line)["doc"] for line in lines])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_faults_and_kills_lose_nothing_and_change_nothing(trial: Trial) -> None:
    """All kinds of fault mixed; `KXBATCH_S3_FAULTS=all` tries each of them by itself too, and prints the table."""
    names = [MIXED] if os.environ.get("KXBATCH_S3_FAULTS") != "all" else [MIXED, *KINDS]
    assert trial.runner.run() == (0, 0, "")
    requests = trial.proxy.counts.total()
    assert (trial.different(), trial.rows()) == ([], (0, 0))
    table = [("none", requests, 0, 1, 0, 0, 0, 0)]
    wrong = []
    for name in names:
        trial.clear()
        kinds = (*KINDS, *BODY_KINDS) if name == MIXED else (name,)  # fewer requests have answers with bodies
        trial.proxy.reset(Plan(share=SHARES.get(name, 0.05), kinds=kinds, stall_s=TIMEOUT_S + 1, drip_s=0.5))
        killed = [trial.runner.run(after=requests // 3)[0] for _ in range(2)]
        died, code, message = trial.runner.run()
        counts, different, rows = trial.proxy.counts, trial.different(), trial.rows()
        resumed = sum(sign == signal.SIGKILL for sign in killed)
        table.append((name, counts.total(), counts.total() - counts[PASSED], 3, resumed, *rows, len(different)))
        print(table[-1], dict(counts), flush=True)
        if (killed, died, code, different, rows) != ([signal.SIGKILL] * 2, 0, 0, [], (0, 0)):
            wrong.append((name, killed, died, code, message, different, rows))
        assert all(counts[kind] for kind in kinds), "every kind of fault really happened"
    print("kind | requests | injected | runs | resumed | rows lost | rows doubled | objects that differ")
    print("\n".join(" | ".join(map(str, row)) for row in table))
    assert wrong == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_storm_ends_a_run_with_a_reason_and_the_next_one_completes_it(trial: Trial) -> None:
    storm = Plan(storm=True, kinds=("slow_down", "internal", "reset_before"))
    died, code, message = trial.runner.run(after=200, act=lambda _: setattr(trial.proxy, "plan", storm))
    assert died == 0
    assert code in (1, 3)
    assert "s3://" in message
    trial.proxy.plan = CALM
    assert trial.runner.run() == (0, 0, "")
    assert (trial.different(), trial.rows()) == ([], (0, 0))
