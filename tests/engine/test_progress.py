"""Progress: what a person, a log and a monitor see of a run."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from support import audit_job

import kxbatch as kx
from kxbatch.data.storage import Folder
from kxbatch.engine import progress
from kxbatch.engine.progress import Progress
from kxbatch.engine.units import Unit


def unit(key: str) -> Unit:
    return Unit("map", key, f"{key}.parquet", {"input": key})


def test_a_line_comes_even_while_one_shard_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.6)
    monkeypatch.setattr(progress, "FILE_EVERY", 0.6)
    stream = io.StringIO()
    with Progress(Folder(str(tmp_path)), "r", stream=stream) as shown:
        shown.begin("embed", "map", [unit("part-00000"), unit("part-00001")], ["part-00001"])
        time.sleep(2)
        live = json.loads((tmp_path / "progress.json").read_text())
    assert live["status"] == "running"
    assert live["phases"][0] == {"stage": "embed", "phase": "map", "units": 2, "done": 1, "failed": 0, "rows": 0}
    lines = stream.getvalue().splitlines()
    assert lines
    assert lines[0].startswith("embed (map): 1/2 shards")


def test_a_training_is_told_in_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    stream = io.StringIO()
    with Progress(Folder(str(tmp_path)), "r", stream=stream) as shown:
        shown.training("encoder")
        before = json.loads(json.dumps(shown._state["phases"][0]))
        facts = {
            "step": 20,
            "steps": 60,
            "loss": 2.5,
            "rate": 1e-3,
            "steps_per_second": 0.5,
            "tokens_per_second": 100.0,
        }
        shown.trained("encoder", facts)
        shown.trained("encoder", {"step": 20, "steps": 60, "validation_loss": 2.75})
        shown._tick()
        shown._publish()
    live = json.loads((tmp_path / "progress.json").read_text())["phases"][0]
    assert "loss" not in before
    assert (live["done"], live["units"]) == (20, 60)
    assert (live["loss"], live["tokens_per_second"], live["seconds_left"]) == (2.5, 100.0, 80.0)
    last = " ".join(stream.getvalue().split())
    assert "encoder (train): step 20/60, loss 2.5000, rate 1.00e-03, 100 tokens/s, 0:01:20 left" in last
    assert "shards" not in last


def test_a_run_leaves_a_log_of_json_lines_and_metrics(corpus: Path, workplace: Path) -> None:
    job = audit_job()
    assert kx.run(job | {"stage": job["stage"][:1]}, quiet=True, report=False).exit_code == 0
    entries = [json.loads(line) for line in (workplace / "out/audit/log.jsonl").read_text().splitlines()]
    assert [e["message"] for e in entries][:2] == ["run started", "phase started"]
    assert entries[-1]["status"] == "done"
    done = [e for e in entries if e["message"] == "unit done"]
    assert {"time", "level", "run", "stage", "phase", "shard", "rows", "worker", "seconds"} <= done[0].keys()
    assert json.loads((workplace / "out/audit/progress.json").read_text())["status"] == "done"
    metrics = (workplace / "out/audit/metrics.prom").read_text()
    assert 'kxbatch_last_exit_code{job="audit"} 0' in metrics
    assert 'kxbatch_stage_rows_out{job="audit",stage="embed"} 120' in metrics
