"""The quality stage through the engine: its figures are those of the kernels on the rows read by hand, in any shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from density_jobs import job as density_job
from density_jobs import table_of, vector, write
from sampling_jobs import done, job, rows, sample, vector_model
from scipy.spatial.distance import cdist

import kxbatch as kx
from kxbatch.data.images import encode
from kxbatch.data.row_draws import held_out, row_keys
from kxbatch.engine.verify import verify
from kxbatch.errors import ConfigError
from kxbatch.kernels.sample_quality import Cloud, quality
from kxbatch.models.classifier.trained import TrainedClassifier

pytestmark = pytest.mark.usefixtures("workplace")
REAL: dict[str, Any] = {"kind": "quality", "name": "real", "input": "input", "columns": "v", "held_out": 0.25}
MADE: dict[str, Any] = {"kind": "quality", "columns": "vector", "reference": "stage:real"}
FIGURES = ("rows", "frechet", "frechet_values", "precision", "recall", "nearest")


def facts(name: str = "quality", output: str = "out/d") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, name, "_artifact/quality.json").read_text())
    return found


def corpus(numbers: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Writes a corpus; its vectors, and which of them are held out at a share of .25."""
    write((), table=table_of(range(numbers)))
    values = np.array([vector(n) for n in range(numbers)]).astype(np.float32)
    return values, held_out(row_keys([f"r{n:05d}" for n in range(numbers)]), 0.25)


def assert_same(found: dict[str, Any], expected: Any) -> None:
    for name in FIGURES:
        assert found[name] == pytest.approx(getattr(expected, name), rel=1e-6), name


def test_figures_are_those_of_the_rows() -> None:
    values, held = corpus()
    vector_model()
    done(density_job(REAL, sample(count=90), MADE))
    real = Cloud(values[~held])
    assert facts("real")["reference_rows"] == (~held).sum()
    (floor,) = facts("real")["groups"]
    assert_same(floor, quality(real, Cloud(values[held])))
    (group,) = facts()["groups"]
    assert_same(group, quality(real, Cloud(rows("out/d")["vector"].to_numpy())))
    assert group["settings"] == {}
    assert not verify("out/d").defects


def test_where_real_rows_repeat_only_equal_rows_are_copies() -> None:
    rows_of = table_of(range(200))
    twice = pa.concat_tables(
        [rows_of, table_of(range(200)).set_column(0, "id", pa.array([f"s{n}" for n in range(200)]))]
    )
    write((), table=twice)
    vector_model()
    done(density_job(REAL, sample(count=40), MADE))
    assert facts("real")["groups"][0]["copies"] > 0.5
    assert facts()["groups"][0]["copies"] == 0


def test_copies_are_rows_nearer_than_chance() -> None:
    values, held = corpus(400)
    low = np.quantile(cdist(values[held], values[~held]).min(axis=1), 0.01)
    copied = values[~held][:30] + np.float32(low / 10)
    pl.DataFrame(
        {"id": [f"c{n}" for n in range(40)], "v": np.concatenate([copied, values[~held][:10] + 500])}
    ).write_parquet("copies.parquet")
    done(density_job(REAL))
    of = density_job({**REAL, "name": "quality", "reference": "out/d/real/_artifact"}, output="out/copies")
    of["input"]["path"] = "copies.parquet"
    done(of)
    (group,) = facts(output="out/copies")["groups"]
    assert group["copies"] == pytest.approx(30 / 40)


def test_groups_have_figures_of_their_own_in_any_shards() -> None:
    values, held = corpus()
    vector_model()
    ways = {"latents": {"kinds": ["prior", "hubs", "shortest"], "pool": 200, "k": 3, "threshold": 5}, "batch_rows": 8}
    by = MADE | {"by": ["latents"]}
    done(density_job(REAL, sample(count=96, shard_rows=96) | ways, by))
    done(density_job(REAL, sample(count=96, shard_rows=7) | ways, by, output="out/other"))
    found = facts()["groups"]
    assert facts(output="out/other")["groups"] == found
    assert [group["settings"]["latents"] for group in found] == ["hubs", "prior", "shortest"]
    made = rows("out/d")
    for group in found:
        own = made.filter(pl.col("latents") == group["settings"]["latents"])
        assert own.height == 32
        order = np.argsort(row_keys(own["id"].to_list()))
        assert_same(group, quality(Cloud(values[~held]), Cloud(own["vector"].to_numpy()[order])))


def test_a_limit_of_rows_is_of_each_group() -> None:
    corpus()
    vector_model()
    ways = {"latents": {"kinds": ["prior", "hubs"], "pool": 200, "k": 3, "threshold": 5}, "batch_rows": 8}
    done(density_job(REAL | {"rows": 100}, sample(count=96) | ways, MADE | {"by": "latents", "rows": 20}))
    assert [group["rows"] for group in facts()["groups"]] == [20, 20]
    assert facts("real")["reference_rows"] + facts("real")["groups"][0]["rows"] == 100


def test_a_classifier_gives_features_and_tells_classes() -> None:
    two = table_of(range(200))
    kinds = ["low" if value < 5 else "high" for value in (row[0] for row in two["v"].to_pylist())]
    known = [None if number % 10 == 0 else kind for number, kind in enumerate(kinds)]
    write((), table=two.append_column("kind", pa.array(known)))
    vector_model()
    training = {"steps": 60, "batch_rows": 50, "validation_share": 0.25, "precision": "fp32"}
    classifier = {"kind": "classifier", "columns": "v", "class_column": "kind", "training": training}
    through = {"classifier": "stage:classifier"}
    done(density_job(classifier, REAL | through | {"class_column": "kind"}, sample(count=64), MADE | through))
    found = TrainedClassifier.load(Path("out/d/classifier/_artifact"))
    made = rows("out/d")["vector"].to_numpy()
    judged = found.judge(made)
    (group,), (floor,) = facts()["groups"], facts("real")["groups"]
    assert facts()["classes"] == ["high", "low"]
    assert group["class_shares"] == pytest.approx(np.bincount(judged.numbers, minlength=2) / 64)
    assert "agreement" not in group
    values = np.array(two["v"].to_pylist(), np.float32)
    held = held_out(row_keys(two["id"].to_pylist()), 0.25)
    seen = found.judge(values)
    told = held & (np.arange(200) % 10 != 0)
    right = np.array(found.classes)[seen.numbers[told]] == np.array(kinds)[told]
    assert floor["agreement"] == pytest.approx(right.mean())
    assert floor["agreement"] > 0.9
    expected = quality(Cloud(values[~held], seen.features[~held]), Cloud(made, judged.features))
    assert group["frechet"] == pytest.approx(expected.frechet, rel=1e-3)  # features round with the batch they are in
    assert group["frechet_values"] == pytest.approx(expected.frechet_values, rel=1e-6)


def test_a_reference_seen_through_another_classifier_is_refused() -> None:
    kinds = ["low" if row[0] < 5 else "high" for row in table_of(range(200))["v"].to_pylist()]
    write((), table=table_of(range(200)).append_column("kind", pa.array(kinds)))
    vector_model()
    for name, steps in (("one", 2), ("two", 3)):
        training = {"steps": steps, "batch_rows": 50, "precision": "fp32"}
        classifier = {"kind": "classifier", "columns": "v", "class_column": "kind", "training": training}
        done(density_job(classifier, REAL | {"classifier": "stage:classifier"}, output=f"out/{name}"))
    made = MADE | {"classifier": "out/two/classifier/_artifact"}
    result = kx.run(job(sample(), made | {"reference": "out/one/real/_artifact"}), quiet=True, report=False)
    assert result.exit_code != 0
    assert "through the same classifier" in result.message + str(result.failures)
    done(job(sample(), made | {"reference": "out/two/real/_artifact"}))


def test_images_are_measured_from_minus_one_to_one() -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (80, 3, 3, 1), np.uint8)
    table = pa.table(
        {"id": [f"r{n}" for n in range(80)], "image": pa.array([encode(one) for one in pixels], pa.binary())}
    )
    write((), table=table)
    done(density_job(REAL | {"columns": "image"}))
    held = held_out(row_keys([f"r{n}" for n in range(80)]), 0.25)
    values = (pixels.reshape(80, 9) / 127.5 - 1).astype(np.float32)
    (floor,) = facts("real")["groups"]
    assert_same(floor, quality(Cloud(values[~held]), Cloud(values[held])))


def test_the_report_has_a_line_for_every_group_and_one_for_real_rows() -> None:
    corpus()
    vector_model()
    ways = {"latents": {"kinds": ["prior", "hubs"], "pool": 200, "k": 3, "threshold": 5}, "batch_rows": 8}
    done(density_job(REAL, sample(count=32) | ways, MADE | {"by": "latents"}), report=True)
    page = Path("out/d/report.html").read_text()
    assert page.count("real rows held out</th>") == 1
    assert all(f"latents {name}</th>" in page for name in ("prior", "hubs"))
    assert "classifier agrees" not in page


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"by": "latent"}, "no column 'latent'"),
        ({"reference": "nowhere"}, "no rows.safetensors there"),
        ({"reference": "stage:sample"}, "no stage of that name before it leaves a quality"),
        ({"classifier": "stage:sample", "reference": None}, "no stage of that name before it leaves a classifier"),
        ({"class_column": "vector"}, "class_column: without a classifier"),
        ({"reference": None, "by": "seed"}, "by: real rows are one group"),
        ({"columns": "image"}, "has no column 'image'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(changes: dict[str, Any], words: str) -> None:
    corpus()
    vector_model()
    of = density_job(REAL, sample(), MADE | changes)
    with pytest.raises(ConfigError, match=words):
        done(of)
    assert not Path("out").exists()


def test_a_reference_of_made_rows_is_refused() -> None:
    corpus()
    vector_model()
    twice = density_job(REAL, sample(), MADE, MADE | {"name": "again", "reference": "stage:quality"})
    with pytest.raises(ConfigError, match="is of made rows itself"):
        kx.plan(twice)
    through = density_job(REAL, sample(), MADE | {"classifier": "model"})
    with pytest.raises(ConfigError, match="features compare only where they are of one classifier"):
        kx.plan(through)


def test_rows_of_another_size_than_the_reference_end_the_job_with_words() -> None:
    corpus()
    vector_model()
    result = kx.run(density_job(REAL | {"columns": ["v", "a"]}, sample(), MADE), quiet=True, report=False)
    assert result.exit_code != 0
    assert "has rows of 4 values, and these have 3" in result.message + str(result.failures)


def test_a_job_that_only_draws_measures_against_a_folder() -> None:
    corpus()
    vector_model()
    done(density_job(REAL, sample(count=40), MADE))
    done(job(sample(count=40), MADE | {"reference": "out/d/real/_artifact"}))
    assert facts(output="out/s")["groups"] == facts()["groups"]
