"""The state of a run in every way a run can stand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support import audit_job

import kxbatch as kx
from kxbatch.cli.status import print_status, training_lines
from kxbatch.data.storage import Folder
from kxbatch.engine.defects import Defect, save_defects
from kxbatch.engine.lease import Lease
from kxbatch.engine.progress import Progress
from kxbatch.engine.status import Status, status
from kxbatch.errors import ConfigError

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]

DIES = """
import os
from pathlib import Path
from kxbatch.data.storage import Folder
from kxbatch.engine.lease import Lease
from kxbatch.engine.progress import Progress
output = Folder(str(Path("out/audit").absolute()))
with Lease(output, "doomed"), Progress(output, "doomed", quiet=True) as progress:
    progress.begin("embed", "map", [1, 2, 3], [2, 3])
    progress.log("error", "no space for this one", stage="embed", shard="part-00001")
    progress._publish()
    os.kill(os.getpid(), 9)
"""


def test_a_finished_run(finished: Finished) -> None:
    found = status("out/audit")
    record = json.loads((finished.output / "run.json").read_text())
    assert (found.state, found.exit_code, found.run, found.ended) == ("done", 0, record["run"], record["ended"])
    assert [stage["name"] for stage in found.stages] == ["embed", "before", "whiten", "hubness"]
    assert found.stages[0]["rows_quarantined"] == 1
    assert (found.errors, found.defects, found.next) == ([], 0, "")


def test_a_live_run(finished: Finished) -> None:
    output = Folder(str(finished.output))
    with Lease(output, "live"), Progress(output, "live", quiet=True):
        found = status("out/audit")
    assert (found.state, found.run, found.exit_code, found.stages) == ("running", "live", None, [])
    assert found.holder is not None
    assert found.holder["run"] == "live"
    assert found.started is not None


def test_a_live_training(finished: Finished, capsys: pytest.CaptureFixture[str]) -> None:
    output = Folder(str(finished.output))
    with Lease(output, "live"), Progress(output, "live", quiet=True) as progress:
        progress.training("encoder")
        progress._publish()
        print_status(status("out/audit"))
        early = capsys.readouterr().out
        facts = {
            "step": 20,
            "steps": 60,
            "loss": 2.5,
            "rate": 1e-3,
            "steps_per_second": 0.5,
            "tokens_per_second": 2000.0,
        }
        progress.trained("encoder", facts)
        progress._publish()
        found = status("out/audit")
    print_status(found)
    shown = capsys.readouterr().out
    assert "? steps" in early
    assert "encoder:" not in early
    assert found.phases[0]["seconds_left"] == 80.0
    assert " ".join(shown.split()).count("train 20 60 steps 0") == 1
    assert "encoder: loss 2.5000 at step 20, 2,000 tokens/s, 0:01:20 left" in shown
    assert "shards" not in shown


def test_a_finished_training_says_how_it_ended() -> None:
    stages = [{"name": "encoder", "note": "trained: first fit; stopped early"}, {"name": "whiten", "note": "fitted"}]
    phases = [{"stage": "encoder", "phase": phase, "done": 9} for phase in ("survey", "train")]
    found = Status("out", "done", "r", phases=phases, stages=stages)
    assert training_lines(found) == ["encoder: trained: first fit; stopped early"]
    died = Status(
        "out", "died", "r", phases=[{**phases[1], "loss": 2.5, "tokens_per_second": 9.0, "seconds_left": 5.0}]
    )
    assert training_lines(died) == ["encoder: loss 2.5000 at step 9, 9 tokens/s"]


def test_a_run_that_died_says_so(finished: Finished) -> None:
    subprocess.run([sys.executable, "-c", DIES], cwd=finished.home, check=False)
    found = status("out/audit")
    assert (found.state, found.run, found.exit_code) == ("died", "doomed", None)
    assert [(p["stage"], p["units"], p["done"]) for p in found.phases] == [("embed", 3, 1)]
    assert [line.split(" ", 1)[1] for line in found.errors] == ["stage embed, shard part-00001: no space for this one"]
    assert "run the same command again" in found.next
    finished.run()
    assert status("out/audit").state == "unchanged"


def test_a_run_with_failed_shards(corpus: Path, workplace: Path) -> None:
    (workplace / "broken.py").write_text("def embed(texts):\n    raise RuntimeError('the model fell over')\n")
    job = audit_job(embed={"model": "callable:broken:embed", "resources": {"attempts": 1}})
    result = kx.run(job, quiet=True, report=False)
    found = status("out/audit")
    assert (found.state, found.exit_code) == (result.status, result.exit_code)
    assert found.exit_code != 0
    assert found.errors
    assert all("the model fell over" in line for line in found.errors)
    assert "mend the cause" in found.next


def test_defects_on_record(finished: Finished) -> None:
    save_defects(Folder(str(finished.output)), [Defect("embed", f"part-0000{n}", "x", "y") for n in range(2)])
    found = status("out/audit")
    assert (found.state, found.defects) == ("done", 2)
    assert "does the defective units again" in found.next


def test_a_log_that_ends_in_the_middle_of_a_line(finished: Finished) -> None:
    run = status("out/audit").run
    with (finished.output / "log.jsonl").open("a") as log:
        entry = {"time": "t", "level": "error", "run": run, "message": "told"}
        log.write("x" * 300_000 + "\n" + json.dumps(entry) + "\n" + json.dumps(entry)[:20])
    assert status("out/audit").errors == ["t told"]


def test_no_run_was_ever_here(workplace: Path) -> None:
    (workplace / "folder").mkdir()
    for path, words in (("folder", "no output of kxbatch"), ("nothing", "does not exist")):
        with pytest.raises(ConfigError, match=words):
            status(path)
    assert list((workplace / "folder").iterdir()) == []
