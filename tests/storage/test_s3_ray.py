"""Workers of Ray share nothing with the driver but the object store: input, output, artifacts and lease."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from storage.s3_server import bucket_objects
from support import audit_job, tree_digests

import kxbatch as kx

RUN = "import json, sys, kxbatch; sys.exit(kxbatch.run(json.loads(sys.argv[1]), quiet=True).exit_code)"


@pytest.mark.slow
def test_ray_on_an_object_store_writes_the_bytes_of_one_process_on_a_disk(
    corpus: Path, workplace: Path, s3: Any, bucket: str
) -> None:
    assert kx.run(audit_job(), quiet=True, report=False).exit_code == 0
    for file in corpus.iterdir():
        s3.upload_file(str(file), bucket, f"data/{file.name}")
    job = audit_job("ray")
    job["job"]["output"] = f"s3://{bucket}/out"
    job["input"]["path"] = [f"s3://{bucket}/data/*.jsonl"]
    done = subprocess.run([sys.executable, "-c", RUN, json.dumps(job)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    objects = bucket_objects(s3, bucket)
    found = {key.removeprefix("out/"): hashlib.sha256(data).hexdigest() for key, data in objects.items()}
    wanted = tree_digests(workplace / "out/audit")
    assert {name: found.get(name) for name in wanted} == wanted
    assert b"<html" in objects["out/report.html"]
