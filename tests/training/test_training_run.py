"""Trainings in one process, from job to artifact: what is left, what is not repeated, what resumes, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from support import training_job, write_texts

import kxbatch
from kxbatch.engine.lineage import trace
from kxbatch.errors import ConfigError

RUN = "import json,sys,kxbatch; r=kxbatch.run(json.load(open('job.json')),report=False); print(r.message); sys.exit(r.exit_code)"


@pytest.fixture
def texts(workplace: Path) -> Path:
    write_texts(workplace / "data/a.jsonl", 0, 120)
    return workplace


def history(output: str | Path = "out/train", stage: str = "encoder") -> list[dict[str, Any]]:
    path = Path(output, stage, "_training/history.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def losses(output: str | Path = "out/train") -> dict[int, float]:
    return {line["step"]: line["loss"] for line in history(output) if "loss" in line}


def card(stage: str = "encoder", output: str = "out/train") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, stage, "_artifact/card.json").read_text())
    return found


def refusal(job: dict[str, Any]) -> str:
    """Why a job is not even planned."""
    with pytest.raises(ConfigError) as caught:
        kxbatch.plan(job)
    return str(caught.value)


def with_embed(job: dict[str, Any]) -> dict[str, Any]:
    embed = {"kind": "embed", "input": "input", "column": "text", "model": "stage:encoder", "precision": "fp32"}
    return {**job, "stage": [*job["stage"], embed]}


@pytest.mark.usefixtures("workplace")
def test_a_step_is_the_same_however_it_is_cut() -> None:
    lines = [json.dumps({"doc": f"d{n}", "text": "the cat sat on a mat " * (1 if n % 4 else 9)}) for n in range(96)]
    Path("data").mkdir()
    Path("data/a.jsonl").write_text("\n".join(lines))
    found = []
    for micro in (8, 2):  # of 2 rows some have nine times the words of others
        job = training_job(sort_within="step", micro_rows=micro, epochs=1, validation_share=0)
        assert kxbatch.run(job, report=False).exit_code == 0
        found.append(losses())
        shutil.rmtree("out")
    np.testing.assert_allclose(list(found[1].values()), list(found[0].values()), rtol=2e-5)


@pytest.mark.usefixtures("texts")
def test_a_job_trains_and_applies_and_repeats_nothing() -> None:
    job = with_embed(training_job())
    only = kxbatch.run(job, report=False, training_only=True)
    assert only.exit_code == 0
    assert [stage.name for stage in only.stages] == ["tokenizer", "encoder"]
    assert not Path("out/train/embed").exists()
    assert losses()[1] > 5.5  # near log 300: nothing is known yet
    trained = card()
    assert trained["training"]["status"] == "trained"
    assert trained["fitted"]["rows"] == 120

    done = kxbatch.run(job, report=False)
    assert done.exit_code == 0
    assert card() == trained
    vectors = kxbatch.open("out/train").scan().collect()
    assert vectors.height == 120
    assert np.isfinite(vectors["embedding"].to_numpy()).all()
    assert kxbatch.run(job, report=False).status == "unchanged"
    model = trace("out/train/embed/part-00000.parquet").made_from[1]
    assert (model.what, model.name, model.facts["digest"]) == ("artifact", "encoder", trained["digest"])
    assert [above.name for above in model.made_from] == ["tokenizer"]

    write_texts(Path("data/b.jsonl"), 500, 10)  # new rows are embedded with the model as it is
    assert kxbatch.run(job, report=False).exit_code == 0
    assert card()["digest"] == trained["digest"]
    assert kxbatch.open("out/train").scan().collect().height == 130


@pytest.mark.usefixtures("texts")
def test_a_new_training_makes_stale_what_was_made_with_the_old_one() -> None:
    kxbatch.run(with_embed(training_job()), report=False)
    before = card()
    changed = with_embed(training_job(optimizer={"rate": 0.002}))
    plan = {(phase.stage, phase.phase): phase for phase in kxbatch.plan(changed).phases}
    assert plan["encoder", "train"].stale == 1
    assert plan["encoder", "survey"].stale == 0
    assert plan["embed", "map"].stale == plan["embed", "map"].total
    assert "waits for encoder" in plan["embed", "map"].reasons
    result = kxbatch.run(changed, report=False)
    assert result.exit_code == 0
    assert card()["digest"] != before["digest"]
    assert not any(unit["reused"] for unit in result.stages[-1].units)
    workers = kxbatch.plan(with_embed(training_job(optimizer={"rate": 0.002}, keep_last=5, deepspeed={"zero": 3})))
    assert workers.to_do == 0  # how it is run decides nothing


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_killed_training_ends_as_an_undisturbed_one(ema: float | None) -> None:
    job = training_job(checkpoint_every=5, ema=ema, epochs=4, model={"dropout": 0.1})
    kxbatch.run(job, report=False)
    calm, weights = losses(), load_file("out/train/encoder/_artifact/model.safetensors")
    shutil.rmtree("out")
    Path("job.json").write_text(json.dumps(job))
    child = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not Path("out/train/encoder/_training/step-00000010/state.json").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    assert not Path("out/train/encoder/_artifact").exists()
    done = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert losses() == calm  # every step once, each with the very same loss
    again = load_file("out/train/encoder/_artifact/model.safetensors")
    assert all(np.array_equal(weights[name], again[name]) for name in weights)


@pytest.mark.usefixtures("texts")
def test_a_damaged_state_is_told_and_an_older_one_taken(capsys: pytest.CaptureFixture[str]) -> None:
    job = training_job(checkpoint_every=5)
    kxbatch.run(job, report=False, quiet=True)
    calm, digest = losses(), card()["digest"]
    states = sorted(Path("out/train/encoder/_training").glob("step-*"))
    share = next(states[-1].glob("share-*"))
    share.write_bytes(share.read_bytes()[:-4] + b"XXXX")
    shutil.rmtree("out/train/encoder/_artifact")
    Path("out/train/encoder/_training/result.json").unlink()
    assert kxbatch.run(job, report=False).exit_code == 0
    assert f"{share.name} is damaged" in capsys.readouterr().err
    assert losses() == calm
    assert card()["digest"] == digest


@pytest.mark.usefixtures("texts")
def test_states_are_kept_as_asked_and_the_best_one_is_what_early_stop_leaves() -> None:
    job = training_job(
        epochs=None,
        steps=40,
        checkpoint_every=4,
        validate_every=4,
        keep_last=1,
        early_stop=3,
        optimizer={"rate": 1e-30},
    )
    result = kxbatch.run(job, report=False)  # with this rate no validation is better than the first
    assert result.exit_code == 0
    facts = card()["training"]
    assert facts["status"] == "stopped early"
    assert facts["best_step"] == 4
    assert facts["exported_step"] == 4
    assert [line["step"] for line in history() if "validation_loss" in line] == [4, 8, 12, 16]
    kept = sorted(path.parent.name for path in Path("out/train/encoder/_training").glob("step-*/state.json"))
    assert kept == ["step-00000004", "step-00000016"]


@pytest.mark.usefixtures("texts")
def test_a_loss_that_is_no_number_ends_the_job_with_the_facts() -> None:
    job = training_job(checkpoint_every=2, clip=None, optimizer={"rate": 1e38}, schedule={"kind": "constant"})
    result = kxbatch.run(job, report=False)
    assert result.exit_code == 1
    for words in ("step ", "rate 1e+38", "losses before", "Lower training.optimizer.rate"):
        assert words in result.message
    assert not Path("out/train/encoder/_artifact/card.json").exists()
    assert history()[-1]["diverged"] is True


@pytest.mark.usefixtures("texts")
def test_a_diverged_training_may_leave_its_last_good_state() -> None:
    job = training_job(clip=None, optimizer={"rate": 1e38}, epochs=None, steps=30, on_divergence="record")
    result = kxbatch.run(job, report=False)
    assert result.exit_code == 0
    facts = card()["training"]
    assert facts["status"] == "diverged"
    assert facts["diverged_at"] == history()[-1]["step"]
    assert facts["step"] == 0
    weights = load_file("out/train/encoder/_artifact/model.safetensors")
    assert all(np.isfinite(value).all() for value in weights.values())
    assert history()[-1]["diverged"] is True


def test_rows_that_cannot_be_trained_on_are_set_aside_and_none_left_is_an_error(workplace: Path) -> None:
    rows = [{"doc": f"d{i}", "text": ["", "  ", None][i % 3]} for i in range(9)]
    Path("data").mkdir()
    Path("data/a.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"doc": "x", "text": "some words here"}])))
    job = training_job()
    job["job"]["quarantine"] = {"max_share": 1.0}
    result = kxbatch.run(job, report=False)
    encoder = result.stages[-1]
    assert (encoder.rows_in, encoder.rows_out, encoder.rows_quarantined) == (10, 1, 9)
    Path("data/a.jsonl").write_text("\n".join(map(json.dumps, [*rows[:2], {"doc": "y", "text": None}])))
    shutil.rmtree("out")
    job["stage"][0] = {"kind": "tokenizer", "column": "doc", "vocabulary": 300}
    result = kxbatch.run(job, report=False)
    assert result.exit_code == 3
    assert "no row to train on" in result.message


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize(
    ("training", "words"),
    [
        ({"workers": 3, "batch_rows": 8, "micro_rows": 2}, "allowed are 1, 2, 4"),
        ({"workers": 2, "micro_rows": 4}, "one process has one worker"),
        ({"precision": "bf16"}, "needs DeepSpeed"),
        ({"micro_rows": 3}, "does not divide batch_rows"),
        ({"early_stop": 2}, "early_stop needs validate_every"),
        ({"schedule": {"kind": "piecewise"}}, "points"),
        ({"optimizer": {"kind": "lamp"}}, "lamb"),
        ({"rat": 1}, "unknown key"),
    ],
)
def test_what_cannot_be_trained_is_refused(training: dict[str, Any], words: str) -> None:
    assert words in refusal(training_job(**training))


@pytest.mark.usefixtures("texts")
def test_an_artifact_is_taken_only_from_a_stage_that_leaves_one() -> None:
    job = training_job()
    job["stage"][1]["tokenizer"] = "stage:tokeniser"
    with pytest.raises(ConfigError, match=r"did you mean 'tokenizer'"):
        kxbatch.plan(job)
    job = with_embed(training_job())
    job["stage"][2]["model"] = "stage:tokenizer"
    with pytest.raises(
        ConfigError, match=r"no stage of that name before it leaves a text encoder; allowed: stage:encoder"
    ):
        kxbatch.plan(job)
    job = with_embed(training_job())
    job["stage"][2]["input"] = "encoder"
    with pytest.raises(ConfigError, match="leaves a text encoder and no rows"):
        kxbatch.plan(job)


@pytest.mark.usefixtures("texts")
def test_weights_of_another_architecture_are_refused_field_by_field() -> None:
    kxbatch.run(training_job(steps=2), report=False)
    job = training_job(steps=2, model={"layers": 3})
    job["job"]["output"] = "out/other"
    job["stage"][1]["initialize"] = "out/train/encoder/_artifact"
    job["stage"][1]["tokenizer"] = "out/train/encoder/_artifact"
    result = kxbatch.run(job, report=False)
    assert result.exit_code == 2
    assert "layers" in result.message
    assert "3" in result.message


@pytest.mark.usefixtures("texts")
def test_a_damaged_artifact_is_found_and_made_again_from_the_last_state() -> None:
    from kxbatch.engine.verify import verify

    kxbatch.run(training_job(), report=False)
    digest, model = card()["digest"], Path("out/train/encoder/_artifact/model.safetensors")
    model.write_bytes(model.read_bytes()[:-4] + b"XXXX")
    assert [defect.file for defect in verify("out/train").defects] == ["_artifact/model.safetensors"]
    assert kxbatch.run(training_job(), report=False).exit_code == 0
    assert card()["digest"] == digest
    assert verify("out/train").defects == []


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("place", ["encoder/_training", "encoder/_training/step-00000027"])
def test_a_folder_of_states_that_is_a_link_is_refused(place: str) -> None:
    kxbatch.run(training_job(epochs=None, steps=27), report=False)
    folder, outside = Path("out/train", place), Path("outside")
    shutil.move(folder, outside)
    folder.symlink_to(outside.absolute())
    with pytest.raises(ConfigError, match=f"{place}: a link"):
        kxbatch.run(training_job(steps=5), report=False)
    assert any(path.is_file() for path in outside.rglob("*"))


@pytest.mark.usefixtures("texts")
def test_other_texts_under_the_same_ids_are_another_training(capsys: pytest.CaptureFixture[str]) -> None:
    kxbatch.run(training_job(refit="always"), report=False, quiet=True)
    before, file = card(), Path("data/a.jsonl")
    file.write_text(file.read_text().replace("alpha", "omega"))  # as many bytes
    assert kxbatch.run(training_job(refit="always"), report=False).exit_code == 0
    assert card()["digest"] != before["digest"]
    assert "of other settings or rows" in capsys.readouterr().err


@pytest.mark.usefixtures("texts")
def test_when_to_train_again_is_no_reason_to_train_again() -> None:
    kxbatch.run(training_job(), report=False)
    assert kxbatch.run(training_job(refit="always", on_divergence="record"), report=False).status == "unchanged"


EARLY = {
    "epochs": None,
    "steps": 12,
    "checkpoint_every": 4,
    "validate_every": 4,
    "early_stop": 2,
    "optimizer": {"rate": 1e-30},
}


@pytest.mark.usefixtures("texts")
def test_patience_that_ends_with_the_last_step_leaves_the_best_however_it_came_to_its_end() -> None:
    kxbatch.run(training_job(**EARLY), report=False)
    facts, digest = card()["training"], card()["digest"]
    assert (facts["status"], facts["exported_step"]) == ("stopped early", 4)
    shutil.rmtree("out/train/encoder/_artifact")  # as if it had died before the end was published
    Path("out/train/encoder/_training/result.json").unlink()
    kxbatch.run(training_job(**EARLY), report=False)
    assert card()["digest"] == digest
    assert card()["training"]["exported_step"] == 4


@pytest.mark.usefixtures("texts")
def test_a_damaged_best_state_is_not_exported(capsys: pytest.CaptureFixture[str]) -> None:
    kxbatch.run(training_job(**EARLY), report=False)
    share = Path("out/train/encoder/_training/step-00000004/share-00000-of-00001.safetensors")
    share.write_bytes(share.read_bytes()[:-4] + b"XXXX")
    shutil.rmtree("out/train/encoder/_artifact")
    Path("out/train/encoder/_training/result.json").unlink()
    assert kxbatch.run(training_job(**EARLY), report=False).exit_code == 0
    assert (
        "the best state, of step 4, is damaged or gone; the weights of step 12 are exported" in capsys.readouterr().err
    )
    assert card()["training"]["exported_step"] == 12


@pytest.mark.usefixtures("texts")
@pytest.mark.parametrize("which", ["state.json", "share-00000-of-00001.safetensors"])
def test_a_damaged_state_does_not_stand_in_the_way_of_new_ones(which: str) -> None:
    job = training_job(checkpoint_every=3, keep_last=1, keep_best=False)
    kxbatch.run(job, report=False)
    calm, last = losses(), next(Path("out/train/encoder/_training").glob("step-*"))
    shutil.rmtree("out/train/encoder/_artifact")
    Path("out/train/encoder/_training/result.json").unlink()
    (last / which).write_bytes(b"{" + (last / which).read_bytes()[1:-4] + b"XXXX")
    assert kxbatch.run(job, report=False).exit_code == 0
    assert losses() == calm
    assert [path.parent.name for path in Path("out/train/encoder/_training").glob("step-*/state.json")] == [last.name]


@pytest.mark.usefixtures("texts")
def test_the_plan_tells_that_a_new_tokenizer_means_a_new_training() -> None:
    kxbatch.run(with_embed(training_job()), report=False)
    job = with_embed(training_job())
    job["stage"][0]["vocabulary"] = 320
    plan = {(phase.stage, phase.phase): phase for phase in kxbatch.plan(job).phases}
    assert plan["encoder", "train"].reasons == {"waits for tokenizer": 1}
    assert plan["embed", "map"].stale == plan["embed", "map"].total


def test_rows_the_tokenizer_sets_aside_are_accounted_for(texts: Path) -> None:
    from kxbatch.engine.verify import verify

    (texts / "data/b.jsonl").write_text('{"doc": "x1", "text": "fine"}\n{"doc": broken}\n')
    job = training_job()
    job["job"]["quarantine"] = {"max_share": 0.5}
    result = kxbatch.run(job, report=False)
    assert [stage.rows_quarantined for stage in result.stages] == [1, 1]
    assert verify("out/train").defects == []
    shutil.rmtree("out/train/encoder")
    assert {defect.file for defect in verify("out/train").defects} >= {"_artifact/card.json"}


def test_a_broken_new_file_does_not_touch_a_model_that_is_pinned(texts: Path) -> None:
    job = with_embed(training_job())
    assert kxbatch.run(job, report=False).exit_code == 0
    trained = card()
    write_texts(texts / "data/b.jsonl", 300, 5)
    (texts / "data/c.parquet").write_bytes(b"no Parquet")
    job["input"]["path"] = ["data/*.jsonl", "data/c.parquet"]
    result = kxbatch.run(job, report=False)
    assert result.exit_code == 3
    assert card() == trained
    assert kxbatch.open("out/train").scan().collect().height == 125
    changed = {**with_embed(training_job(optimizer={"rate": 0.01})), "input": job["input"]}
    waiting = kxbatch.run(changed, report=False)  # a new model waits for all rows, and so does what takes it
    assert waiting.exit_code == 3
    assert card() == trained
    assert [failure.error for failure in waiting.failures] == ["Unreadable", "Untrained"]
