"""The classifier stage through the engine: what it learns, what it leaves, and what it refuses or passes by."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
import torch
from density_jobs import done, held, job, run, table_of, vector, write
from image_rows import images, labelled, png
from safetensors.numpy import load_file
from support import tree_digests

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.surveys import PASSED
from kxbatch.errors import ConfigError
from kxbatch.models.classifier.trained import TrainedClassifier
from kxbatch.stages.base import Context
from kxbatch.stages.classifier import ClassifierStage
from kxbatch.stages.classifier_config import ClassifierConfig
from kxbatch.stages.task import KEY, Task

pytestmark = pytest.mark.usefixtures("workplace")
ARTIFACT = Path("out/d/classifier/_artifact")
RNG = np.random.default_rng
DIGITS = {"mlp": ({"width": 64, "layers": 2}, 150), "conv": ({"channels": [16, 32]}, 300)}  # a network and its steps


def classifier(**changes: Any) -> dict[str, Any]:
    """A tiny model of `v`."""
    training = {"steps": 6, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32", "log_every": 1}
    training |= changes.pop("training", {})
    small = {"kind": "classifier", "columns": "v", "class_column": "kind", "features": 4, "training": training}
    return small | ({"mlp": {"width": 8, "layers": 1}} if changes.get("network", "mlp") == "mlp" else {}) | changes


def aside() -> dict[str, str]:
    rows = read_quarantine(Folder(str(Path("out/d/classifier").absolute()))).to_pylist()
    return {row["id"]: row["error"] for row in rows}


def validations() -> list[float]:
    history = json.loads((ARTIFACT / "training.json").read_text())["history"]
    return [line["validation_accuracy"] for line in history if "validation_loss" in line]


def write_digits(order: npt.NDArray[np.int64] | None = None) -> tuple[pa.Table, npt.NDArray[np.float64]]:
    """scikit-learn's 1 797 digits as images, their labels in another order; the table and the pixels of its images."""
    datasets = pytest.importorskip("sklearn.datasets", reason="the package scikit-learn is not installed")
    found = datasets.load_digits()
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    columns = {
        "id": [f"digit-{n:04d}" for n in range(len(pixels))],
        "image": pa.array([png(one) for one in pixels], pa.binary()),
        "kind": found.target if order is None else found.target[order],
    }
    write((), table=pa.table(columns))
    return pa.table(columns), pixels.reshape(len(pixels), -1).astype(np.float64)


def trained_on_digits(network: str, order: npt.NDArray[np.int64] | None = None) -> tuple[float, int]:
    """Accuracy of the digits that were held out, as the folder says it, and how many they are."""
    table, pixels = write_digits(order)
    settings, steps = DIGITS[network]
    training = {"steps": steps, "batch_rows": 64, "optimizer": {"rate": 0.005}, "log_every": 100}
    done(job(classifier(columns="image", features=32, network=network, training=training, **{network: settings})))
    out, model = held(table["id"].to_pylist()), TrainedClassifier.load(ARTIFACT)
    told = np.array(model.classes)[model.judge(pixels[out]).numbers]
    accuracy = float((told == table["kind"].to_numpy()[out]).mean())
    assert accuracy == pytest.approx(validations()[-1], abs=1e-6)
    return accuracy, int(out.sum())


@pytest.mark.parametrize("network", DIGITS)
def test_digits_are_told_apart(network: str) -> None:
    accuracy, rows = trained_on_digits(network)
    assert rows > 300
    assert accuracy >= 0.93  # measured: 0.983 and 0.986; 0.1 is chance
    found = TrainedClassifier.read(ARTIFACT)
    assert (found.image, found.shape, found.levels, found.widths) == (True, (8, 8, 1), 256, (64,))
    assert (found.classes, found.class_column, found.held_out) == (tuple(range(10)), "kind", 0.2)


def test_labels_that_say_nothing_stay_at_chance() -> None:
    accuracy, rows = trained_on_digits("mlp", RNG(0).permutation(1797))
    assert accuracy < 0.1 + 4 * np.sqrt(0.09 / rows)  # four standard deviations of guessing


def test_a_row_without_a_class_decides_nothing() -> None:
    table = labelled(table_of(range(120)), "b", None, "a")
    write((), table=table)
    result = done(job(classifier(columns=["a", "v"])))
    (stage,) = result.stages
    assert (stage.rows_in, stage.rows_out, stage.rows_quarantined, stage.counters[PASSED]) == (120, 120, 0, 40)
    assert TrainedClassifier.read(ARTIFACT).classes == ("a", "b")
    x = np.array([vector(n) for n in range(120)]).astype(np.float32).astype(np.float64)
    x = np.column_stack([x[:, 0] * 10, x])[~held([f"r{n:05d}" for n in range(120)]) & (np.arange(120) % 3 != 1)]
    scaling = TrainedClassifier.load(ARTIFACT).scaling
    np.testing.assert_allclose(scaling.centre, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scaling.spread, x.std(axis=0), rtol=1e-12)
    before = load_file(ARTIFACT / "model.safetensors")
    other = np.array([vector(n) + 100 * (n % 3 == 1) for n in range(120)], np.float32)
    write((), table=table.set_column(1, "v", to_arrow(other)))
    shutil.rmtree("out")
    done(job(classifier(columns=["a", "v"])))
    after = load_file(ARTIFACT / "model.safetensors")
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_numbers_are_classes_too_and_a_vector_may_be_an_image() -> None:
    levels = RNG(0).integers(0, 17, (60, 12)).astype(np.float32)
    levels[5, 3], levels[9, 0] = 17, 2.5
    write((), table=labelled(pa.table({"id": [f"r{n:02d}" for n in range(60)], "v": to_arrow(levels)}), 7, -2, None))
    of = classifier(
        shape=[2, 6], scaling="levels", levels=17, network="conv", conv={"channels": [4, 6], "dropout": 0.2}
    )
    done(job(of))
    assert aside() == {"r05": "out-of-range", "r09": "out-of-range"}
    model = TrainedClassifier.load(ARTIFACT)
    assert (model.image, model.shape, model.levels, model.classes) == (False, (2, 6, 1), 17, (-2, 7))
    assert (model.values, model.columns, model.widths, model.features_width) == (12, ("v",), (12,), 4)
    for changes, words in (({"shape": [5, 5]}, "12 values a row"), ({"shape": None}, "network = 'conv' wants images")):
        result = run(job(of | changes, output="out/e"))
        assert result.exit_code == 2
        assert words in result.message


def test_images_unlike_the_others_are_set_aside() -> None:
    rows = images(0, 60).to_pylist() + images(100, 3, 5, 6).to_pylist() + images(200, 2, 4, 6, 3).to_pylist()
    rows += [{"id": "x", "image": b"GIF89a nothing"}, {"id": "y", "image": None}]
    write((), table=labelled(pa.Table.from_pylist(rows), "a", "b", "c"))
    done(job(classifier(columns="image", network="conv", conv={"channels": [4]})))
    other = {f"i{n:04d}": "image-shape" for n in (100, 101, 102, 200, 201)}
    assert aside() == other | {"x": "unreadable-image", "y": "null-image"}
    assert TrainedClassifier.read(ARTIFACT).shape == (4, 6, 1)


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (pa.array([None] * 60, pa.string()), "class_column 'kind': no row has a class; a classifier tells two or more"),
        (
            pa.array([None, "a"] * 30),
            "class_column 'kind': all rows are of the class 'a'; a classifier tells two or more",
        ),
        (pa.array(np.arange(60) / 7), "class_column 'kind' has type double; classes are texts or whole numbers"),
        (pa.array(range(60)), "class_column 'kind' has 60 different values, and 50 are allowed"),
    ],
)
def test_columns_that_hold_no_classes(kinds: pa.Array, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.stages.class_column.MOST_CLASSES", 50)
    write((), table=table_of(range(60)).append_column("kind", kinds))
    result = run(job(classifier()))
    assert result.exit_code == 3
    assert words in result.message + str(result.failures)


def test_classes_of_several_shards_are_counted_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.stages.class_column.MOST_CLASSES", 5)
    for file, first, names in (("a", 0, "abc"), ("b", 60, "cde"), ("c", 120, "ef")):
        write((), file, table=labelled(table_of(range(first, first + 50)), *names))
    result = run(job(classifier()))
    assert result.exit_code == 3
    assert "class_column 'kind' has 6 different values, and 5 are allowed" in result.message
    Path("rows/c.parquet").unlink()
    shutil.rmtree("out")
    done(job(classifier()))
    assert TrainedClassifier.read(ARTIFACT).classes == tuple("abcde")


def test_a_training_is_repeated_bit_by_bit_and_only_when_something_decides_it() -> None:
    write((), table=labelled(table_of(range(80)), "a", "b"))
    done(job(classifier(training={"ema": 0.9})))
    before = tree_digests(Path("out/d"), only=decides)
    assert len(before) == 2
    assert done(job(classifier(training={"ema": 0.9, "keep_last": 4}))).status == "unchanged"
    shutil.rmtree("out")
    done(job(classifier(training={"ema": 0.9})))
    assert tree_digests(Path("out/d"), only=decides) == before
    result = done(job(classifier(training={"ema": 0.9}, features=5)))
    assert all(unit["reused"] for unit in result.stages[0].units), "surveys know nothing of the network"
    assert tree_digests(Path("out/d"), only=decides) != before


def decides(path: Path) -> bool:
    """Files of the model; `training.json` tells how long it took."""
    return path.name in ("model.safetensors", "config.json")


def task(rows: pa.Table, **changes: Any) -> Task:
    """A task over rows that are surveyed here."""
    stage = ClassifierStage(ClassifierConfig(**classifier(**changes)), "v")
    context = Context(seed=3, threads=1, gpus=0)
    facts = stage.combine(iter([stage.survey(rows, context).facts]))
    return stage.task(Context(seed=3, threads=1, gpus=0, facts=lambda: facts))


def test_the_loss_is_cross_entropy_in_nats_and_the_metric_the_share_of_right_answers() -> None:
    rows = labelled(table_of(range(40)), "a", "b", "c")
    made = task(rows)
    torch.manual_seed(0)
    model = made.model().eval()
    batch = made.collate(made.encode(rows).append_column(KEY, pa.array(np.arange(40, dtype=np.uint64))), 0)
    assert (batch.rows, batch.weight, batch.tokens) == (40, 40, 120)
    found = made.loss(model, batch.tensors)
    _, logits = model(batch.tensors["values"])
    logits, truth = logits.detach().double().numpy(), np.arange(40) % 3
    wanted = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(40), truth]
    assert found.mean.item() == pytest.approx(wanted.mean(), rel=1e-5)
    assert found.metrics["accuracy"].item() == pytest.approx((logits.argmax(axis=1) == truth).mean(), abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": 4}, "levels go with scaling = 'levels'"),
        ({"class_column": None}, "class_column"),
        ({"conv": {"channels": [3]}}, "[stage.conv] goes with network = 'conv', and network is 'mlp'"),
        ({"network": "conv", "mlp": {"width": 8}}, "[stage.mlp] goes with network = 'mlp', and network is 'conv'"),
        ({"network": "unet"}, "network"),
        ({"columns": ["v", "v"]}, "names a column twice"),
        ({"columns": ["v", "a"], "class_column": "a"}, "is among the columns"),
        ({"columns": ["v", "image"]}, "an image column stands alone"),
        ({"class_column": "image"}, "class_column: 'image' is no text or number column but image"),
        ({"class_column": "knid"}, "no column 'knid'"),
        ({"columns": "image", "scaling": "standardize"}, "images are always scaled from their levels"),
        ({"columns": "image", "scaling": "levels", "levels": 17}, "levels = 17: images have 256"),
        ({"features": 0}, "features"),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    rows = table_of(range(30)).append_column("image", images(0, 30)["image"])
    write((), table=labelled(rows, "a", "b"))
    with pytest.raises(ConfigError) as caught:
        kx.run(job(classifier(**changes)), quiet=True, report=False)
    assert words in str(caught.value)
    assert not Path("out").exists()
