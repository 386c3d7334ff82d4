"""The ddpm stage through the engine: what it learns from, what it leaves, what it refuses, and how it goes on after a death."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from density_jobs import done, held, job, run, table_of, vector, write
from image_rows import images, labelled
from safetensors.numpy import load_file
from support import tree_digests

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.cards import TRAINING
from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import make_schedule
from kxbatch.models.diffusion.trained import TrainedDiffusion
from kxbatch.stages.base import Context
from kxbatch.stages.ddpm import DdpmStage
from kxbatch.stages.ddpm_config import DdpmConfig, NoiseConfig
from kxbatch.stages.task import KEY, Task

pytestmark = pytest.mark.usefixtures("workplace")
RUN = "import json,sys,kxbatch; r=kxbatch.run(json.load(open('job.json')),report=False); print(r.message); sys.exit(r.exit_code)"
ARTIFACT = Path("out/d/ddpm/_artifact")


def ddpm(**changes: Any) -> dict[str, Any]:
    """A tiny model of `v`."""
    training = {"steps": 6, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32", "log_every": 1}
    training |= changes.pop("training", {})
    small = {"kind": "ddpm", "columns": "v", "noise": {"steps": 20, "last": 0.3}, "training": training}
    return small | ({"mlp": {"width": 8, "layers": 1}} if changes.get("network", "mlp") == "mlp" else {}) | changes


def config() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ARTIFACT / "config.json").read_text())
    return found


def losses() -> dict[int, float]:
    lines = Path("out/d/ddpm", TRAINING, "history.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def aside() -> dict[str, str]:
    rows = read_quarantine(Folder(str(Path("out/d/ddpm").absolute()))).to_pylist()
    return {row["id"]: row["error"] for row in rows}


def test_vectors_are_standardised_by_the_rows_that_are_learned_from() -> None:
    write(range(120))
    result = done(job(ddpm(columns=["a", "v"])))
    x = np.array([vector(n) for n in range(120)]).astype(np.float32).astype(np.float64)
    x = np.column_stack([x[:, 0] * 10, x])[~held([f"r{n:05d}" for n in range(120)])]
    scaling = TrainedDiffusion.load(ARTIFACT).scaling
    np.testing.assert_allclose(scaling.centre, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaling.spread, x.std(axis=0), rtol=1e-12)
    found = TrainedDiffusion.read(ARTIFACT, make_schedule("linear", 20, last=0.3))
    assert (found.columns, found.widths, found.held_out, found.average) == (("a", "v"), (1, 3), 0.2, False)
    assert not (ARTIFACT / "live.safetensors").exists()
    (stage,) = result.stages
    assert (stage.rows_in, stage.rows_out, stage.rows_quarantined) == (120, 120, 0)


def test_training_learns_and_leaves_the_average_beside_the_live_weights() -> None:
    write(range(200))
    training = {"steps": 150, "optimizer": {"rate": 0.01}, "ema": 0.9, "validate_every": 50}
    done(job(ddpm(mlp={"width": 32, "layers": 2}, training=training)))
    history = json.loads((ARTIFACT / "training.json").read_text())["history"]
    told = [line for line in history if "validation_loss" in line]
    assert told[-1]["validation_loss"] < 2.2  # saying nothing gets 3, the mean of |eps|^2
    assert told[-1]["validation_noise_error"] == pytest.approx(told[-1]["validation_loss"] / 3, rel=1e-5)
    average, live = (load_file(ARTIFACT / name) for name in ("model.safetensors", "live.safetensors"))
    assert average.keys() == live.keys()
    assert not np.array_equal(average["out.weight"], live["out.weight"])
    assert np.array_equal(average["inputs.centre"], live["inputs.centre"])
    for which, arrays in (("average", average), ("live", live)):
        network = TrainedDiffusion.load(ARTIFACT, which=which).network
        assert np.array_equal(network.get_parameter("out.weight").detach().numpy(), arrays["out.weight"])


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction": "x0", "weighting": "min-snr", "gamma": 2},
        {"prediction": "v", "weighting": "snr", "noise": {"kind": "cosine", "steps": 10}},
        {"scaling": "none", "noise": {"kind": "su", "steps": 10, "last": 0.5}},
        {"mlp": {"width": 8, "layers": 2, "dropout": 0.2}, "training": {"ema": 0.9, "micro_rows": 8}},
    ],
)
def test_every_way_of_training_runs(changes: dict[str, Any]) -> None:
    write(range(60))
    done(job(ddpm(**changes)))
    assert all(map(np.isfinite, losses().values()))
    model = TrainedDiffusion.load(ARTIFACT)
    assert model.prediction == changes.get("prediction", "eps")
    assert model.schedule.identity.startswith(changes.get("noise", {}).get("kind", "linear"))


@pytest.mark.parametrize(
    ("network", "settings"),
    [
        ("unet", {"channels": 8, "multipliers": [1, 2], "blocks": 1, "heads": 2}),
        ("gau", {"dim": 16, "layers": 2, "key_dim": 8}),
        ("mlp", {"width": 8, "layers": 1}),
    ],
)
def test_images_with_classes(network: str, settings: dict[str, Any]) -> None:
    write((), table=labelled(images(0, 60), 7, None, -2))
    done(job(ddpm(columns="image", class_column="kind", network=network, **{network: settings})))
    found, model = TrainedDiffusion.read(ARTIFACT), TrainedDiffusion.load(ARTIFACT)
    assert (found.image, found.shape, found.levels) == (True, (4, 6, 1), 256)
    assert (found.class_column, found.classes, found.unconditional) == ("kind", (-2, 7), True)
    assert model.to_values(model.units(np.arange(24.0)[None] * 10)).tolist() == [[10.0 * n for n in range(24)]]
    numbers = model.class_numbers([7, -2])
    said = model.denoiser(numbers, 2.0).predict(torch.randn(2, 24), torch.tensor([3, 4]))
    assert torch.isfinite(said).all()


def test_a_vector_may_be_an_image() -> None:
    levels = np.random.default_rng(0).integers(0, 17, (60, 12)).astype(np.float32)
    levels[5, 3], levels[9, 0] = 17, 2.5
    write((), table=labelled(pa.table({"id": [f"r{n:02d}" for n in range(60)], "v": to_arrow(levels)}), "a", "b"))
    unet = {"channels": 4, "multipliers": [1, 2], "blocks": 1, "attention": [], "heads": 1}
    of = ddpm(
        shape=[2, 6], scaling="levels", levels=17, network="unet", unet=unet, class_column="kind", class_dropout=0
    )
    done(job(of))
    assert aside() == {"r05": "out-of-range", "r09": "out-of-range"}
    found = TrainedDiffusion.read(ARTIFACT)
    assert (found.image, found.shape, found.levels, found.classes) == (False, (2, 6, 1), 17, ("a", "b"))
    assert not found.unconditional
    for changes, words in (({"shape": [5, 5]}, "12 values a row"), ({"shape": None}, "network = 'unet' wants images")):
        result = run(job(of | changes, output="out/e"))
        assert result.exit_code == 2
        assert words in result.message


def test_rows_that_no_model_can_be_of_are_set_aside() -> None:
    rows = images(0, 60).to_pylist() + images(100, 3, 5, 6).to_pylist() + images(200, 2, 4, 6, 3).to_pylist()
    rows += [{"id": "x", "image": b"GIF89a nothing"}, {"id": "y", "image": None}]
    write((), table=pa.Table.from_pylist(rows))
    done(job(ddpm(columns="image")))
    other = {f"i{n:04d}": "image-shape" for n in (100, 101, 102, 200, 201)}
    assert aside() == other | {"x": "unreadable-image", "y": "null-image"}
    shutil.rmtree("out")
    rows = table_of(range(60)).to_pylist()
    for row, value in enumerate((float("nan"), float("inf"), 1001.0, -1001.0, 999.0)):
        rows[row]["v"] = [0.0, value, 0.0]
    rows[10]["v"], rows[11]["v"] = [1.0, 2.0], None
    write((), table=pa.table({"id": [row["id"] for row in rows], "v": pa.array([row["v"] for row in rows])}))
    done(job(ddpm(scaling="none")))
    far = {f"r{n:05d}": "not-finite" for n in range(4)}
    assert aside() == far | {"r00010": "vector-length", "r00011": "null-vector"}


def test_shards_that_do_not_go_together_are_refused_by_words() -> None:
    write((), "a", table=images(0, 40))
    write((), "b", table=images(100, 40, 4, 4))
    result = run(job(ddpm(columns="image")))
    assert result.exit_code == 3
    assert "columns image: shards do not go together" in result.message


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (pa.array([None] * 60, pa.string()), "class_column 'kind': no row has a class"),
        (pa.array(np.arange(60) / 7), "class_column 'kind' has type double; classes are texts or whole numbers"),
        (pa.array(range(60)), "class_column 'kind' has 60 different values, and 50 are allowed"),
    ],
)
def test_columns_that_hold_no_classes(kinds: pa.Array, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.stages.class_column.MOST_CLASSES", 50)
    write((), table=table_of(range(60)).append_column("kind", kinds))
    result = run(job(ddpm(class_column="kind")))
    assert result.exit_code == 3
    assert words in result.message + str(result.failures)


def test_held_out_rows_decide_nothing_of_the_model() -> None:
    write(range(100))
    done(job(ddpm()))
    before = load_file(ARTIFACT / "model.safetensors")
    out = held([f"r{n:05d}" for n in range(100)])
    other = np.array([vector(n) + 100 * out[n] for n in range(100)], np.float32)
    write((), table=table_of(range(100)).set_column(1, "v", to_arrow(other)))
    shutil.rmtree("out")
    done(job(ddpm()))
    after = load_file(ARTIFACT / "model.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_a_model_of_another_schedule_is_another_training() -> None:
    write(range(80))
    done(job(ddpm()))
    before = tree_digests(Path("out/d"), only=decides)
    assert done(job(ddpm(training={"keep_last": 4}))).status == "unchanged"
    result = done(job(ddpm(noise={"steps": 20, "last": 0.31})))
    assert all(unit["reused"] for unit in result.stages[0].units), "surveys know nothing of noise"
    assert tree_digests(Path("out/d"), only=decides) != before
    with pytest.raises(ConfigError, match=r"last=0.31.*and this run has 'linear\(T=20, first=0.0001, last=0.3\)'"):
        TrainedDiffusion.load(ARTIFACT, schedule=make_schedule("linear", 20, last=0.3))


KILLED = {"checkpoint_every": 5, "steps": None, "epochs": 10, "ema": 0.9, "batch_rows": 8}


def test_a_killed_training_ends_as_an_undisturbed_one() -> None:
    write((), table=labelled(table_of(range(120)), "a", "b"))
    of = job(ddpm(training=KILLED, class_column="kind", mlp={"width": 8, "layers": 1, "dropout": 0.1}))
    done(of)
    calm, digests = losses(), tree_digests(Path("out/d"), only=decides)
    shutil.rmtree("out")
    Path("job.json").write_text(json.dumps(of))
    child = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not Path("out/d/ddpm", TRAINING, "step-00000010/state.json").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    assert not ARTIFACT.exists()
    done(of)
    assert losses() == calm  # every step once, each with the very same loss
    assert tree_digests(Path("out/d"), only=decides) == digests
    assert len(digests) == 3


def decides(path: Path) -> bool:
    """Files of the model; `training.json` tells how long it took."""
    return path.name in ("model.safetensors", "live.safetensors", "config.json")


def task(rows: pa.Table, **changes: Any) -> Task:
    """A task over rows that are surveyed here."""
    stage = DdpmStage(DdpmConfig(**ddpm(**changes)), "v")
    context = Context(seed=3, threads=1, gpus=0)
    facts = stage.combine(iter([stage.survey(rows, context).facts]))
    return stage.task(Context(seed=3, threads=1, gpus=0, facts=lambda: facts))


def test_times_noise_and_dropped_classes_belong_to_row_and_epoch() -> None:
    rows = labelled(table_of(range(4000)), "a", "b")
    made = task(rows, class_column="kind", class_dropout=0.25)
    encoded = made.encode(rows).append_column(KEY, pa.array(np.arange(4000, dtype=np.uint64)))
    batch, other = made.collate(encoded, 0), made.collate(encoded, 1)
    part = made.collate(encoded.take(pa.array([30, 7])), 0)
    for name, tensor in batch.tensors.items():
        assert torch.equal(part.tensors[name], tensor[[30, 7]]), name
        assert torch.equal(made.collate(encoded, 0).tensors[name], tensor), name
        assert torch.equal(other.tensors[name], tensor) == (name == "x0"), name
    t, eps, classes = (batch.tensors[name] for name in ("t", "eps", "class"))
    counts = np.bincount(t.numpy(), minlength=21)
    assert counts[0] == 0
    assert len(counts) == 21
    assert ((counts[1:] - 200) ** 2 / 200).sum() < 43.8  # chi-squared, 19 degrees of freedom, 99.9 %
    assert abs(eps.mean()) < 0.03
    assert eps.std() == pytest.approx(1.0, abs=0.02)
    assert abs(np.corrcoef(eps[:, 0], t)[0, 1]) < 0.06
    assert (classes == 2).float().mean() == pytest.approx(0.25, abs=0.03)
    kept = classes != 2
    assert torch.equal(classes[kept], (torch.arange(4000) % 2)[kept])
    assert not (made.collate(encoded, -1).tensors["class"] == 2).any()


@pytest.mark.parametrize(
    "raw",
    [
        {"kind": kind, "steps": steps, **{name: value}}
        for kind, name in (
            ("linear", "first"),
            ("linear", "last"),
            ("cosine", "offset"),
            ("cosine", "most"),
            ("su", "last"),
        )
        for value in (1e-9, 0.999999)
        for steps in (1, 1000)
    ],
)
def test_schedules_that_a_job_may_name_can_be_made(raw: dict[str, Any]) -> None:
    noise = NoiseConfig(**raw)
    assert make_schedule(noise.kind, noise.steps, **noise.parameters).steps == raw["steps"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": 4}, "levels go with scaling = 'levels'"),
        ({"gamma": 4}, "gamma goes with weighting = 'min-snr', not with 'simple'"),
        ({"unet": {"heads": 2}}, "[stage.unet] goes with network = 'unet', and network is 'mlp'"),
        (
            {"noise": {"kind": "cosine", "last": 0.1}},
            "last is no parameter of kind = 'cosine', which has offset and most",
        ),
        ({"noise": {"kind": "linaer"}}, "linear"),
        ({"columns": ["v", "v"]}, "names a column twice"),
        ({"columns": ["v", "a"], "class_column": "a"}, "is among the columns"),
        ({"columns": ["v", "image"]}, "an image column stands alone"),
        ({"class_column": "image"}, "class_column: 'image' is no text or number column but image"),
        ({"class_column": "knid"}, "no column 'knid'"),
        ({"columns": "image", "scaling": "standardize"}, "images are always scaled from their levels"),
        ({"columns": "image", "scaling": "levels", "levels": 17}, "levels = 17: images have 256"),
        ({"network": "resnet"}, "network"),
        ({"mlp": {"width": 7}}, "width"),
        ({"class_dropout": 1.0}, "class_dropout"),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    write((), table=table_of(range(30)).append_column("image", images(0, 30)["image"]))
    with pytest.raises(ConfigError) as caught:
        kx.run(job(ddpm(**changes)), quiet=True, report=False)
    assert words in str(caught.value)
    assert not Path("out").exists()
