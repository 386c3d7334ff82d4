"""A training whose states, history and artifact lie on an object store: killed, resumed, applied; the same bytes as on a disk."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from storage.s3_server import bucket_keys, bucket_objects
from support import training_job, tree_digests, write_texts

import kxbatch as kx

RUN = "import json, sys, kxbatch; sys.exit(kxbatch.run(json.loads(sys.argv[1]), quiet=True).exit_code)"


def job(output: str) -> dict[str, Any]:
    found = training_job(checkpoint_every=5, epochs=3)
    found["job"]["output"] = output
    found["stage"].append({"kind": "embed", "column": "text", "model": "stage:encoder", "precision": "fp32"})
    return found


def test_a_training_on_an_object_store_is_killed_and_resumed(workplace: Path, s3: Any, bucket: str) -> None:
    write_texts(Path("data/a.jsonl"), 0, 120)
    assert kx.run(job("out/disk"), quiet=True, report=False).exit_code == 0
    command = [sys.executable, "-c", RUN, json.dumps(job(f"s3://{bucket}/out"))]
    child = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while "out/encoder/_training/step-00000010/state.json" not in bucket_keys(s3, bucket):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.kill()
    child.wait()
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    objects = bucket_objects(s3, bucket)
    found = {key.removeprefix("out/"): hashlib.sha256(data).hexdigest() for key, data in objects.items()}
    wanted = tree_digests(workplace / "out/disk", only=lambda path: path.name != "training.json")  # it has the time
    assert "encoder/_artifact/model.safetensors" in wanted
    assert {name: found.get(name) for name in wanted} == wanted
    lines = map(json.loads, objects["out/encoder/_training/history.jsonl"].splitlines())
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, len(steps) + 1))
    assert any("tfevents" in key for key in objects)
