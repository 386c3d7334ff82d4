"""Trainings on Ray: the curve of one process, for any ZeRO stage and number of workers, whoever is killed on the way.

With `-s` the table of kills is printed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file
from support import training_job, write_texts

import kxbatch
from kxbatch.engine.result import RunResult

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
TOLERANCE = 1e-5  # of a loss, relative; seen: 0 at the same number of workers, 1e-6 at another
RUN = "import json,sys,kxbatch; r=kxbatch.run(json.load(open('job.json')),report=False); print(r.message); sys.exit(r.exit_code)"


@pytest.fixture(autouse=True)
def texts(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_texts(workplace / "data/a.jsonl", 0, 160)
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    return workplace


def job(executor: str, output: str, **training: Any) -> dict[str, Any]:
    found = training_job(executor, checkpoint_every=5, **{"micro_rows": 4, "epochs": 3, **training})
    found["job"]["output"] = output
    return found


def losses(output: str) -> dict[int, float]:
    lines = map(json.loads, Path(output, "encoder/_training/history.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def apart(a: dict[int, float], b: dict[int, float]) -> float:
    """Largest relative difference of two curves that have the same steps."""
    assert a.keys() == b.keys()
    return max(abs(a[step] - b[step]) / a[step] for step in a)


@pytest.fixture
def calm(workplace: Path) -> dict[int, float]:
    """The curve of one undisturbed process."""
    assert kxbatch.run(job("inline", "out/calm"), report=False).exit_code == 0
    return losses("out/calm")


@pytest.mark.parametrize(("workers", "zero"), [(1, 1), (2, 1), (2, 2), (2, 3)])
def test_every_launch_gives_the_same_curve(calm: dict[int, float], workers: int, zero: int) -> None:
    shared = job("ray", "out/shared", workers=workers, deepspeed={"zero": zero})
    assert kxbatch.run(shared, report=False).exit_code == 0
    assert apart(calm, losses("out/shared")) < TOLERANCE
    mine, theirs = (load_file(f"out/{name}/encoder/_artifact/model.safetensors") for name in ("calm", "shared"))
    assert mine.keys() == theirs.keys()
    for name in mine:
        np.testing.assert_allclose(mine[name], theirs[name], rtol=0, atol=1e-4)
    settings = json.loads(Path("out/shared/encoder/_training/deepspeed.json").read_text())
    assert settings["zero_optimization"]["stage"] == zero
    assert settings["gradient_accumulation_steps"] * workers * 4 == settings["train_batch_size"] == 8
    assert kxbatch.run(job("inline", "out/shared"), report=False).status == "unchanged"


def at_a_state(output: str, act: Callable[[], None]) -> threading.Thread:
    """Do something as soon as the state of step 10 is there."""

    def wait() -> None:
        while not Path(output, "encoder/_training/step-00000010/state.json").exists():
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def kill_a_worker() -> None:
    """The process that trains as the last rank, by its Ray name; only below this process, which started Ray."""
    found = [process for process in psutil.Process().children(recursive=True) if "RayTrainWorker" in _name(process)]
    found[-1].send_signal(signal.SIGKILL)


def _name(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_killed_worker_costs_nothing_but_time(calm: dict[int, float], capsys: pytest.CaptureFixture[str]) -> None:
    killer = at_a_state("out/killed", kill_a_worker)
    result = kxbatch.run(job("ray", "out/killed", workers=2, deepspeed={"zero": 2}), report=False)
    killer.join()
    assert result.exit_code == 0, result.message
    assert "going on from the newest state (attempt 2)" in capsys.readouterr().err
    told("worker killed, 2 workers, ZeRO 2, same run", apart(calm, losses("out/killed")))


@pytest.mark.parametrize(("workers", "zero", "then"), [(2, 3, "inline"), (1, 1, "ray")])
def test_a_training_goes_on_with_another_number_of_workers(
    calm: dict[int, float], workers: int, zero: int, then: str
) -> None:
    first = job("ray", "out/moved", workers=workers, deepspeed={"zero": zero})
    first["stage"][1]["resources"] = {"attempts": 1}
    killer = at_a_state("out/moved", kill_a_worker)
    result = kxbatch.run(first, report=False)
    killer.join()
    assert result.exit_code == 1
    assert "the newest state is kept" in result.message
    second: RunResult
    other = {} if then == "inline" else {"workers": 2, "deepspeed": {"zero": 3}}
    second = kxbatch.run(job(then, "out/moved", **other), report=False)
    assert second.exit_code == 0
    told(f"worker killed, {workers} workers, ZeRO {zero}, then {then} {other}", apart(calm, losses("out/moved")))


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_ended_resumes(calm: dict[int, float], sent: int) -> None:
    Path("job.json").write_text(json.dumps(job("ray", "out/driver", workers=2, epochs=3)))
    environment = {**os.environ, "RAY_ADDRESS": ""}
    child = subprocess.Popen(
        [sys.executable, "-c", RUN], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    killer = at_a_state("out/driver", lambda: child.send_signal(sent))
    _, err = child.communicate(timeout=240)
    killer.join(1)
    assert child.returncode == (-9 if sent == signal.SIGKILL else 143), err.decode()[-2000:]
    assert not Path("out/driver/encoder/_artifact").exists()
    result = kxbatch.run(job("inline", "out/driver", epochs=3), report=False)
    assert result.exit_code == 0, result.message
    told(
        f"driver ended by {signal.Signals(sent).name}, 2 workers, ZeRO 1, then inline",
        apart(calm, losses("out/driver")),
    )


def told(what: str, difference: float) -> None:
    print(f"\n| {what} | {difference:.1e} |")
    assert difference < TOLERANCE


def test_what_deepspeed_cannot_do_ends_with_the_reason() -> None:
    Path("ds.json").write_text(json.dumps({"train_batch_size": 64}))
    refused = kxbatch.run(job("ray", "out/no", deepspeed={"file": "ds.json"}), report=False)
    assert refused.exit_code == 2
    for words in ("train_batch_size", "64", "batch_rows"):
        assert words in refused.message
    shutil.rmtree("out/no")
    crowd = kxbatch.run(job("ray", "out/no", batch_rows=64, workers=16), report=False)
    assert crowd.exit_code == 2
    assert "do not fit on the cluster, 2 would" in crowd.message


def test_relative_paths_start_from_where_the_job_was_run() -> None:
    """Neither where the cluster was started nor where Ray Train moved to: both the survey and the training open the tokenizer."""
    assert kxbatch.run(job("inline", "out/first"), report=False).exit_code == 0
    later = job("ray", "out/later")
    later["stage"] = [later["stage"][1] | {"tokenizer": "out/first/tokenizer/_artifact"}]
    result = kxbatch.run(later, report=False)
    assert result.exit_code == 0, result.message
    assert apart(losses("out/first"), losses("out/later")) < TOLERANCE
