"""The vae stage through the engine: what it learns from, what it leaves, what it refuses, and how it goes on after a death."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from density_jobs import done, facts, held, iwae, job, parts, run, table_of, vae, vector, write
from PIL import Image
from safetensors.numpy import load_file
from support import tree_digests

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.cards import TRAINING
from kxbatch.errors import ConfigError

pytestmark = pytest.mark.usefixtures("workplace")
RUN = "import json,sys,kxbatch; r=kxbatch.run(json.load(open('job.json')),report=False); print(r.message); sys.exit(r.exit_code)"
SHARES = {"training": {"validation_share": 0.2, "precision": "fp32", "steps": 4, "batch_rows": 16}}


def model(output: str = "out/d", stage: str = "vae") -> dict[str, npt.NDArray[Any]]:
    return load_file(Path(output, stage, "_artifact/model.safetensors"))


def config(output: str = "out/d") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, "vae/_artifact/config.json").read_text())
    return found


def card(output: str = "out/d") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, "vae/_artifact/card.json").read_text())
    return found


def losses(output: str = "out/d", stage: str = "vae") -> dict[int, float]:
    lines = Path(output, stage, TRAINING, "history.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines) if "loss" in line}


def png(pixels: npt.NDArray[np.uint8]) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def images(first: int, count: int, height: int = 6, width: int = 5, levels: int = 5) -> pa.Table:
    """Grey gradients with noise, of so many levels."""
    rng = np.random.default_rng(first)
    rows = []
    for _ in range(count):
        slope = rng.uniform(0, levels - 1) + np.linspace(0, rng.uniform(-2, 2), height * width).reshape(height, width)
        level = np.clip(np.rint(slope + rng.normal(0, 0.4, slope.shape)), 0, levels - 1)
        rows.append(png(np.rint(level * 255 / (levels - 1)).astype(np.uint8)))
    return pa.table({"id": [f"i{n:04d}" for n in range(first, first + count)], "image": pa.array(rows, pa.binary())})


def aside(stage: str = "vae") -> dict[str, str]:
    rows = read_quarantine(Folder(str(Path("out/d", stage).absolute()))).to_pylist()
    return {row["id"]: row["error"] for row in rows}


def test_units_come_from_the_rows_that_are_learned_from() -> None:
    write(range(200))
    result = done(job(vae(columns=["a", "v"], fit_on="normal")))
    numbers = list(range(200))
    learned = ~held([f"r{n:05d}" for n in numbers]) & np.array([n % 25 != 24 for n in numbers])
    x = np.array([vector(n) for n in numbers]).astype(np.float32).astype(np.float64)
    x = np.column_stack([x[:, 0] * 10, x])[learned]
    np.testing.assert_allclose(model()["inputs.centre"], x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(model()["inputs.spread"], x.std(axis=0), rtol=1e-12)
    assert (config()["columns"], config()["widths"], config()["held_out"]) == (["a", "v"], [1, 3], 0.2)
    (stage,) = result.stages
    assert (stage.rows_in, stage.rows_out, stage.rows_quarantined) == (200, 200, 0)
    assert stage.counters["passed_rows"] == 8
    normal = [f"r{n:05d}" for n in numbers if n % 25 != 24]
    assert stage.counters["held_out_rows"] == held(normal).sum()


def test_held_out_and_passed_rows_decide_nothing_of_the_model() -> None:
    write(range(150))
    done(job(vae(fit_on="normal")))
    before = model()
    ids = [f"r{n:05d}" for n in range(150)]
    out = held(ids) | np.array([n % 25 == 24 for n in range(150)])
    table = table_of(range(150))
    other = np.array([vector(n) + 100 * out[n] for n in range(150)], np.float32)
    write((), table=table.set_column(1, "v", to_arrow(other)))
    done(job(vae(fit_on="normal"), output="out/other"))
    assert before.keys() == model("out/other").keys()
    assert all(np.array_equal(before[name], array) for name, array in model("out/other").items())


def test_training_learns() -> None:
    write(range(200))
    training = {"steps": 120, "optimizer": {"rate": 0.01}, "validate_every": 40}
    done(job(vae(fit_on="normal", training=training), iwae(fit_on="normal", keep=["odd"])))
    found = losses()
    assert np.mean([found[step] for step in range(111, 121)]) < found[1] - 0.3
    frame = parts()
    assert frame.filter("odd")["log_density"].max() < frame.filter(~frame["odd"])["log_density"].median()


@pytest.mark.parametrize(
    "changes",
    [
        {"kl_warmup": 2.5},
        {"free_bits": 0.5},
        {"importance_samples": 3},
        {"importance_samples": 3, "doubly_reparameterised": True},
        {"scale": "fixed"},
        {"scale": "shared"},
        {"scale": "predicted"},
        {"dropout": 0.2},
        {"activation": "silu", "hidden": [8, 4]},
        {"transform": "none"},
        {"transform": "asinh"},
        {"nulls": "impute"},
    ],
)
def test_every_way_of_training_runs_and_decides(changes: dict[str, Any]) -> None:
    write(range(80))
    plain, changed = vae(name="plain"), vae(**changes)
    done(job(plain, changed, iwae()))
    assert parts()["log_density"].is_finite().all()
    same = all(np.array_equal(a, model()[name]) for name, a in model(stage="plain").items() if name in model())
    assert same == (changes == {"nulls": "impute"})


def test_the_kl_warms_up_with_the_epochs() -> None:
    write(range(80))
    training = {"batch_rows": 64, "steps": 1}
    done(
        job(
            vae(name="none", kl_warmup=1e12, training=training),
            vae(name="half", kl_warmup=2, training=training),
            vae(training=training),
        )
    )
    first = [losses(stage=name)[1] for name in ("none", "half", "vae")]  # the same weights, rows and noise
    assert first[1] == pytest.approx((first[0] + first[2]) / 2, rel=1e-5)
    assert abs(first[2] - first[0]) > 1e-3


def test_images() -> None:
    write((), "a", table=images(0, 70))
    write((), "b", table=images(200, 50))
    stages = (
        vae(columns="image", likelihood="discretised-logistic", levels=5, scale="predicted", fit_on=None),
        iwae(columns="image", keep=["image"]),
    )
    done(job(*stages))
    assert (config()["network"]["shape"], config()["widths"], config()["network"]["levels"]) == ([6, 5, 1], [30], 5)
    told = facts()
    assert (told["dim"], told["discrete"], told["shape"]) == (30, True, [6, 5, 1])
    assert told["compression"]["rows"] == told["calibration"]["rows"] > 10
    frame = parts()
    assert frame.height == 120
    assert (frame["log_density"] < 0).all()
    assert (frame["image"].bin.starts_with(b"\x89PNG")).all()


@pytest.mark.parametrize(("height", "width"), [(6, 5), (1, 7), (8, 8)])
def test_convolutions_take_images_of_any_size(height: int, width: int) -> None:
    write((), "a", table=images(0, 60, height, width))
    done(
        job(
            vae(columns="image", likelihood="discretised-logistic", levels=5, network="conv", hidden=[4, 6]),
            iwae(columns="image"),
        )
    )
    assert parts()["log_density"].is_finite().all()
    assert facts()["dim"] == height * width


def test_a_vector_may_be_an_image() -> None:
    write(
        (),
        table=pa.table(
            {"id": [str(n) for n in range(60)], "v": to_arrow(np.random.default_rng(0).random((60, 12), np.float32))}
        ),
    )
    done(job(vae(network="conv", hidden=[4], shape=[3, 2, 2]), iwae()))
    assert facts()["shape"] == [3, 2, 2]
    for changes, words in (
        ({"network": "conv"}, "network = 'conv' wants images"),
        ({"shape": [5, 5]}, "12 values a row"),
    ):
        result = run(job(vae(**changes), output="out/e"))
        assert result.exit_code == 2
        assert words in result.message


def test_bits() -> None:
    bits = np.random.default_rng(0).integers(0, 2, (90, 6)).astype(np.float32)
    bits[4, 2], bits[7, 1] = 2, 0.5
    write((), table=pa.table({"id": [f"b{n:02d}" for n in range(90)], "v": to_arrow(bits)}))
    done(job(vae(likelihood="bernoulli"), iwae(score="complexity")))
    assert aside() == aside("density") == {"b04": "out-of-range", "b07": "out-of-range"}
    assert facts()["compression"]["raw_bits"] == facts()["calibration"]["rows"] * 6
    assert np.allclose(parts()["log_density"] / -6, np.log(2), atol=0.4), "fair coins, nearly nothing learned"


def test_constant_columns_are_named() -> None:
    table = table_of(range(60))
    values = np.array([vector(n) for n in range(60)], np.float32)
    values[:, 1] = 7
    values[24::25, 1] = 9  # odd rows are not learned from
    table = table.set_column(1, "v", to_arrow(values)).append_column("c", pa.array([3] * 60))
    write((), table=table)
    result = run(job(vae(columns=["a", "v", "c"], fit_on="normal")))
    assert result.exit_code == 3
    assert "constant in all rows to learn from: v[1], c;" in result.message
    assert done(job(vae(columns=["a", "v"]), output="out/e")).exit_code == 0, "the odd rows differ"


def test_nobody_to_learn_from() -> None:
    write((), table=table_of(range(40)).set_column(4, "normal", pa.array([None] * 40, pa.bool_())))
    result = run(job(vae(fit_on="normal")))
    assert result.exit_code == 3
    assert "no row to train on" in result.message
    write((), table=table_of(range(40)).set_column(1, "v", pa.array([None] * 40, pa.list_(pa.float32(), 3))))
    result = run(job(vae(), output="out/e"))
    assert result.exit_code == 3
    assert "no row to train on" in result.message


def test_nulls_are_refused_or_filled_with_the_mean() -> None:
    table = table_of(range(100))
    values = table["a"].to_pylist()
    for row in (3, 50, 51):
        values[row] = None
    write((), table=table.set_column(2, "a", pa.array(values, pa.float64())))
    done(job(vae(columns=["a", "v"]), iwae(columns=["a", "v"])))
    assert aside() == aside("density") == {f"r{n:05d}": "null-value" for n in (3, 50, 51)}
    done(job(vae(columns=["a", "v"], nulls="impute"), iwae(columns=["a", "v"]), output="out/filled"))
    assert parts(output="out/filled").height == 100
    known = [
        v for v, out in zip(values, held([f"r{n:05d}" for n in range(100)]), strict=True) if v is not None and not out
    ]
    mean = model("out/filled")["inputs.centre"][0]
    assert mean == pytest.approx(np.mean(known), rel=1e-12)
    filled = [mean if value is None else value for value in values]
    write((), table=table.set_column(2, "a", pa.array(filled)))
    shutil.copytree("out/filled/vae/_artifact", "model")
    done(job(iwae(columns=["a", "v"], model="model"), output="out/means"))
    np.testing.assert_array_equal(parts(output="out/means")["log_density"], parts(output="out/filled")["log_density"])


def test_shards_that_do_not_go_together_are_refused_by_words() -> None:
    write((), "a", table=images(0, 40))
    write((), "b", table=images(100, 40, 4, 4))
    result = run(job(vae(columns="image", **SHARES)))
    assert result.exit_code == 3
    assert "columns image: shards do not go together" in result.message
    assert "a model is of rows of one size" in result.message
    for name, width in (("a", 3), ("b", 4)):
        rows = np.random.default_rng(width).normal(size=(40, width)).tolist()
        ids = [f"{name}{n}" for n in range(40)]
        write((), name, table=pa.table({"id": ids, "v": pa.array(rows, pa.list_(pa.float32()))}))
    result = run(job(vae(), output="out/e"))
    assert result.exit_code == 3
    assert "values of their columns: (3,) and (4,)" in result.message


def test_images_of_another_size_are_set_aside_by_the_model() -> None:
    write((), "a", table=images(0, 60))
    levels = {"likelihood": "discretised-logistic", "levels": 5, "columns": "image"}
    done(job(vae(**levels)))
    shutil.copytree("out/d/vae/_artifact", "model")
    rows = images(100, 12, 4, 4).to_pylist() + images(200, 5).to_pylist()
    rows += [{"id": "x", "image": b"GIF89a nothing"}, {"id": "y", "image": None}]
    write((), "b", table=pa.Table.from_pylist(rows))
    shutil.rmtree("out")
    done(job(iwae(columns="image", model="model")))
    found = aside("density")
    assert found == {f"i{n:04d}": "image-shape" for n in range(100, 112)} | {"x": "unreadable-image", "y": "null-image"}
    assert parts().height == 65


def test_unchanged_training_is_not_repeated() -> None:
    write(range(100))
    done(job(vae()))
    before, digests = card(), tree_digests(Path("out/d"))
    assert done(job(vae())).status == "unchanged"
    assert done(job(vae(training={"keep_last": 4, "log_every": 3}))).status == "unchanged"
    write(range(100, 130), "b")
    done(job(vae(), iwae()))
    assert card()["digest"] == before["digest"], "new rows are scored with the model as it is"
    assert {k: v for k, v in tree_digests(Path("out/d")).items() if k.startswith("vae")} == digests
    result = done(job(vae(latent=3), iwae()))
    assert card()["digest"] != before["digest"]
    assert not any(unit["reused"] for unit in result.stages[-1].units)
    assert all(unit["reused"] for unit in result.stages[0].units), "what the surveys say does not depend on the network"
    plan = {(p.stage, p.phase): p for p in kx.plan(job(vae(latent=3, nulls="impute"), iwae())).phases}
    assert plan["vae", "survey"].stale == plan["vae", "survey"].total


KILLED = {"checkpoint_every": 5, "steps": None, "epochs": 20, "ema": 0.9, "batch_rows": 8}


def test_a_killed_training_ends_as_an_undisturbed_one() -> None:
    write(range(120))
    of = job(vae(training=KILLED, importance_samples=2, dropout=0.1, kl_warmup=10))
    done(of)
    calm, digests = losses(), tree_digests(Path("out/d"), only=decides)
    shutil.rmtree("out")
    Path("job.json").write_text(json.dumps(of))
    child = subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not Path("out/d/vae", TRAINING, "step-00000010/state.json").exists():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    assert not Path("out/d/vae/_artifact").exists()
    done(of)
    assert losses() == calm  # every step once, each with the very same loss
    assert tree_digests(Path("out/d"), only=decides) == digests
    assert len(digests) == 2


def decides(path: Path) -> bool:
    """Files of the model; `training.json` tells how long it took."""
    return path.name in ("model.safetensors", "config.json")


def test_surveys_of_other_rows_are_another_training() -> None:
    write(range(100))
    of = job(vae(training={"refit": "always"}))
    done(of)
    before = card()["digest"]
    write(range(100), shift=1)
    done(of)
    assert card()["digest"] != before
    whole = job(vae(), output="out/whole")
    done(whole)
    assert all(np.array_equal(a, model("out/whole")[name]) for name, a in model().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": 4}, ("levels go with likelihood = 'discretised-logistic'",)),
        ({"levels": 1, "likelihood": "discretised-logistic"}, ("greater than or equal to 2",)),
        ({"nulls": "impute", "likelihood": "bernoulli"}, ("needs likelihood = 'gaussian'",)),
        ({"nulls": "impute", "transform": "none"}, ("needs transform = 'standardize'",)),
        ({"free_bits": 1, "importance_samples": 2}, ("needs importance_samples = 1",)),
        ({"columns": ["v", "v"]}, ("names a column twice",)),
        ({"columns": ["v", "odd"]}, ("'odd' is no number, vector or image column but other",)),
        ({"columns": ["v", "image"]}, ("an image column stands alone",)),
        ({"columns": ["image", "v"]}, ("an image column stands alone",)),
        ({"columns": "id"}, ("'id'", "text")),
        ({"columns": "image", "likelihood": "discretised-logistic", "levels": 300}, ("at most 256 levels",)),
        ({"columns": "vv"}, ("no column 'vv'", "did you mean 'v'")),
        ({"fit_on": "nrmal"}, ("no column 'nrmal'",)),
        ({"hidden": [8, 0]}, ("hidden", "greater than or equal to 1")),
        ({"shape": [-3, -1]}, ("shape", "greater than or equal to 1")),
        ({"network": "resnet"}, ("network",)),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    write((), table=table_of(range(30)).append_column("image", images(0, 30)["image"]))
    with pytest.raises(ConfigError) as caught:
        kx.run(job(vae(**changes)), quiet=True, report=False)
    for word in words:
        assert word in str(caught.value)
    assert not Path("out").exists()


def test_fit_on_must_be_boolean() -> None:
    write(range(30))
    result = run(job(vae(fit_on="a")))
    assert result.exit_code == 3
    assert "fit_on: column 'a' has type double" in result.failures[0].message


def test_columns_absent_means_the_only_vector_column() -> None:
    write(range(60))
    stages = ({k: v for k, v in vae().items() if k != "columns"}, {k: v for k, v in iwae().items() if k != "columns"})
    done(job(*stages))
    assert config()["columns"] == ["v"]
    write((), "a", table=table_of(range(60)).append_column("w", table_of(range(60))["v"]))
    with pytest.raises(ConfigError, match="name the vector column"):
        kx.plan(job(*stages, output="out/e"))
