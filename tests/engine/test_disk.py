"""Disks that take no more, and files nobody may read: the message says where and what to do, and nothing finished is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import training_job, tree_digests, write_texts

RUN = [sys.executable, "-m", "kxbatch", "run", "job.json.toml", "--no-report", "-q"]
WIDE = "import numpy as np\ndef embed(texts): return np.ones((len(texts), 4096), np.float32)\n"


def write_job(workplace: Path, output: str) -> None:
    lines = [f'[job]\nname = "audit"\noutput = "{output}"\nexecutor = "inline"']
    lines.append('[input]\npath = "data/*.jsonl"\nid = "doc"\nshard_size = "1kB"')
    lines.append('[[stage]]\nkind = "embed"\ncolumn = "text"\nmodel = "callable:wide:embed"')
    (workplace / "job.json.toml").write_text("\n".join(lines))
    (workplace / "wide.py").write_text(WIDE)


def in_namespace(workplace: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in a mount namespace of its own, where it may mount a small disk."""
    flags = "-m" if os.geteuid() == 0 else "-rm"
    command = ["unshare", flags, "sh", "-ec", script]
    return subprocess.run(command, cwd=workplace, capture_output=True, text=True, timeout=120)


@pytest.fixture
def small_disk(workplace: Path) -> None:
    """Skips, by name, where the machine lets nobody mount a tmpfs."""
    probe = (
        in_namespace(workplace, "mkdir -p probe && mount -t tmpfs -o size=1m tmpfs probe")
        if shutil.which("unshare")
        else None
    )
    if probe is None or probe.returncode != 0:
        pytest.skip("unshare with a tmpfs mount is not permitted on this machine")


@pytest.mark.usefixtures("corpus", "small_disk")
def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(workplace: Path) -> None:
    write_job(workplace, "disk/out")
    (workplace / "disk").mkdir()
    (workplace / "kept").mkdir()
    run = " ".join(RUN)
    script = f"mount -t tmpfs -o size=1200k tmpfs disk; set +e; {run}; echo status=$?; cp -r disk/out kept/"
    done = in_namespace(workplace, script)
    assert "status=1" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stderr
    assert "run the same command again: finished shards are kept" in done.stderr
    finished = list((workplace / "kept/out/embed/_kxbatch/receipts/map").glob("*.json"))
    assert finished
    shutil.copytree(workplace / "kept/out", workplace / "disk/out")  # the same place, with room now
    done = subprocess.run(RUN, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads((workplace / "disk/out/run.json").read_text())
    reused = [unit["reused"] for unit in record["stages"][0]["units"]]
    assert sum(reused) == len(finished)
    assert not list((workplace / "disk/out").rglob(".tmp-*"))
    write_job(workplace, "whole")
    assert subprocess.run(RUN, cwd=workplace, capture_output=True).returncode == 0
    assert tree_digests(workplace / "disk/out") == tree_digests(workplace / "whole")


@pytest.mark.usefixtures("corpus", "small_disk")
def test_a_disk_with_no_room_for_the_record_of_the_run_hides_nothing(workplace: Path) -> None:
    write_job(workplace, "disk/out")
    lines = ["def embed(texts):", "    try:", "        sink = open('disk/filler', 'ab', 0)"]
    lines += ["        while sink.write(bytes(4096)): pass", "    except OSError: pass"]
    (workplace / "wide.py").write_text(WIDE.replace("def embed(texts):", "\n".join(lines) + "\n   "))
    (workplace / "disk").mkdir()
    run = " ".join(RUN[:-1])
    done = in_namespace(workplace, f"mount -t tmpfs -o size=1200k tmpfs disk; set +e; {run}; echo status=$?")
    assert "status=1" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert "embed/part-00000.parquet: cannot be written: No space left on device" in done.stderr
    assert "no record of this run: " in done.stderr


@pytest.mark.usefixtures("corpus")
def test_a_file_size_limit_is_told_like_a_full_disk(workplace: Path) -> None:
    write_job(workplace, "out")
    command = ["sh", "-c", 'ulimit -f 100; exec "$@"', "sh", *RUN]  # 100 blocks of 512 bytes
    done = subprocess.run(command, cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert "embed/part-00000.parquet" in done.stderr


@pytest.mark.usefixtures("corpus", "small_disk")
def test_an_output_that_cannot_be_written(workplace: Path) -> None:
    write_job(workplace, "disk/out")
    (workplace / "disk").mkdir()
    done = in_namespace(workplace, f"mount -t tmpfs -o ro tmpfs disk; set +e; {' '.join(RUN)}; echo status=$?")
    assert "status=1" in done.stdout, done.stdout + done.stderr
    assert "cannot be written: Read-only file system" in done.stderr


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_while_a_state_is_saved_keeps_the_one_before(workplace: Path) -> None:
    write_texts(workplace / "data/a.jsonl", 0, 60)
    job = training_job(checkpoint_every=2, keep_last=50, epochs=8, model={"dim": 64})
    job["job"]["output"] = "disk/out"
    (workplace / "job.json").write_text(json.dumps(job))
    (workplace / "disk").mkdir()
    (workplace / "kept").mkdir()
    code = "r = kxbatch.run(json.load(open('job.json')), report=False); print(r.message); sys.exit(r.exit_code)"
    (workplace / "train.py").write_text(f"import json, sys, kxbatch; {code}")
    run = f"{sys.executable} train.py"
    script = f"mount -t tmpfs -o size=9m tmpfs disk; set +e; {run}; echo status=$?; cp -r disk/out kept/"
    done = in_namespace(workplace, script)
    assert "status=1" in done.stdout, done.stdout + done.stderr
    assert "No space left on device" in done.stdout, done.stderr
    states = [path.parent.name for path in (workplace / "kept/out/encoder/_training").glob("step-*/state.json")]
    assert states
    shutil.copytree(workplace / "kept/out", workplace / "disk/out")  # the same place, with room now
    done = subprocess.run([sys.executable, "train.py"], cwd=workplace, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (workplace / "disk/out/encoder/_training/history.jsonl").read_text().splitlines()
    steps = [line["step"] for line in map(json.loads, lines) if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
