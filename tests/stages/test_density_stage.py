"""The density stage through the engine: three estimators, calibration, scores, what is refused, what is not done twice."""

from __future__ import annotations

import json
import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from density_jobs import (
    calibration,
    done,
    facts,
    fresh,
    gaussian,
    held,
    iwae,
    job,
    parts,
    run,
    stamps,
    table_of,
    vae,
    vector,
    write,
)
from scipy.special import digamma
from scipy.stats import multivariate_normal
from support import tree_digests

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.lineage import trace
from kxbatch.errors import ConfigError, KxbatchError
from kxbatch.stages.density_scores import SCORES

pytestmark = pytest.mark.usefixtures("workplace")
HUBNESS = {"kind": "hubness", "input": "input", "metric": "euclidean", "column": "v", "k": 3, "keep": ["odd", "v"]}
KNN = {"kind": "density", "name": "knn", "estimator": "knn", "model": "stage:hubness", "calibration_share": 0.2}
COLUMNS: dict[str, Any] = {
    "log_density": pl.Float64,
    "bits_per_dim": pl.Float64,
    "density_stderr": pl.Float64,
    "ess": pl.Float32,
    "density_percentile": pl.Float32,
    "density_score": pl.Float64,
}


def refused(of: dict[str, Any], *words: str, error: type[KxbatchError] = ConfigError) -> None:
    """Nothing is run, and the words say why."""
    with pytest.raises(error) as caught:
        kx.run(of, quiet=True, report=False)
    for word in words:
        assert word in str(caught.value)
    assert not Path("out/d/density").exists()


def aside(stage: str = "density") -> list[tuple[str, str]]:
    rows = read_quarantine(Folder(str(Path("out/d", stage).absolute()))).to_pylist()
    return [(row["id"], row["error"]) for row in rows]


def test_importance_sampling_gives_the_columns_of_the_contract() -> None:
    write(range(150))
    result = done(job(vae(fit_on="normal"), iwae(keep=["odd"], labels="odd", fit_on="normal")))
    frame = parts()
    extra = {"elbo": pl.Float64, "largest_weight": pl.Float32}
    assert dict(frame.schema) == {"id": pl.String, "odd": pl.Boolean, **COLUMNS, **extra}
    assert frame["id"].to_list() == [f"r{n:05d}" for n in range(150)]
    assert frame.null_count().sum_horizontal()[0] == 0
    assert (frame["elbo"] <= frame["log_density"] + 1e-9).all(), "Jensen"
    assert frame["ess"].is_between(1 - 1e-5, 12 + 1e-5).all()
    assert frame["largest_weight"].is_between(1 / 12 - 1e-6, 1).all()
    assert (1 / frame["largest_weight"] <= frame["ess"] * 12 + 1e-3).all()
    np.testing.assert_allclose(frame["bits_per_dim"], -frame["log_density"] / (3 * math.log(2)))
    np.testing.assert_allclose(frame["density_score"], -frame["log_density"])
    assert frame.filter("odd")["density_percentile"].max() == 0, "thirty deviations off"
    told = facts()
    assert (told["estimator"], told["columns"], told["dim"], told["samples"]) == ("iwae", ["v"], 3, 12)
    assert (told["discrete"], told["likelihood"], told["labels"]) == (False, "gaussian", "odd")
    assert told["shape"] is None
    assert told["compression"] is None
    curve = [point["mean"] for point in told["convergence"]]
    assert [point["samples"] for point in told["convergence"]] == [1, 2, 4, 12]
    assert curve == sorted(curve)
    assert curve[-1] == pytest.approx(told["calibration"]["mean"], abs=1e-4)
    calm = frame.filter(~pl.col("odd") & pl.Series(held(frame["id"].to_list())))
    assert told["calibration"]["rows"] == calm.height
    assert curve[0] == pytest.approx(calm["elbo"].mean(), abs=1e-4)
    assert len(told["latent"]["kl"]) == len(told["latent"]["variance"]) == 2
    assert min(told["latent"]["kl"]) >= -1e-6
    assert any("effective sample size" in warning for warning in result.warnings) == bool(
        (frame["ess"] < 10).mean() > 0.05
    )


def test_the_gaussian_is_the_normal_distribution_of_the_rows_not_held_out() -> None:
    write(range(150))
    done(job(gaussian(fit_on="normal", keep=["odd"], labels="odd")))
    frame = parts()
    assert dict(frame.schema) == {"id": pl.String, "odd": pl.Boolean, **COLUMNS}
    ids = frame["id"].to_list()
    x = np.array([vector(n) for n in range(150)]).astype(np.float32).astype(np.float64)
    learned = x[~held(ids) & ~frame["odd"].to_numpy()]
    truth = multivariate_normal(learned.mean(axis=0), np.cov(learned, rowvar=False, bias=True))
    np.testing.assert_allclose(frame["log_density"], truth.logpdf(x), rtol=1e-9)
    assert frame["density_stderr"].null_count() == frame["ess"].null_count() == 150
    assert facts()["rank"] == 3
    assert facts()["likelihood"] is None
    assert facts()["samples"] is None


def test_neighbours_give_densities_through_the_hubness_stage() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((800, 2)).astype(np.float32)
    write((), table=pa.table({"id": [f"u{i:04d}" for i in range(800)], "v": to_arrow(x)}))
    done(job(HUBNESS | {"keep": []}, KNN))
    frame = parts("knn")
    assert dict(frame.schema) == {"id": pl.String, **COLUMNS}
    inside = ((x > 0.15) & (x < 0.85)).all(axis=1)  # away from the edge the density of the square is 1
    assert frame.filter(pl.Series(inside))["log_density"].mean() == pytest.approx(0, abs=0.1)
    assert facts("knn")["searched"] == 800
    assert facts("knn")["dim"] == 2


def test_neighbours_of_more_rows_count_for_rows_whose_lists_stay_the_same() -> None:
    write(range(60))
    done(job(HUBNESS, KNN))
    assert done(job(HUBNESS, KNN)).status == "unchanged"
    write(range(60, 100), "b", shift=1000)  # nobody's neighbours
    done(job(HUBNESS, KNN))
    grown = parts("knn")
    assert done(job(HUBNESS, KNN)).status == "unchanged"
    done(job(HUBNESS, KNN, output="out/whole"))
    np.testing.assert_allclose(grown["log_density"], parts("knn", "out/whole")["log_density"])
    hubness = trace("out/d/knn/part-00000.parquet").made_from[-1]
    assert (hubness.what, hubness.name, hubness.notes) == ("artifact", "hubness", [])


def test_neighbours_are_counted_among_all_rows_that_are_searched() -> None:
    """Zero vectors have distances, and a query is not one of those it is compared with."""
    write(range(60))
    zeros = table_of(range(60, 70)).set_column(1, "v", to_arrow(np.zeros((10, 3), np.float32)))
    write((), "b", table=zeros)
    ask = {"queries": "odd", "name": "asked"}
    done(job(HUBNESS, KNN, HUBNESS | ask, KNN | {"name": "of-asked", "model": "stage:asked", "keep": ["odd"]}))
    assert facts("knn")["searched"] == 70
    last = np.array(parts("hubness")["neighbor_scores"].to_list())[:, -1]
    at = parts("hubness")["id"].to_list().index("r00003")
    volume = 4 / 3 * math.pi * last[at] ** 3
    expected = digamma(3) - digamma(70) - math.log(volume)
    assert parts("knn")["log_density"][at] == pytest.approx(expected, rel=1e-5)
    asked, frame = parts("asked"), parts("of-asked")
    assert frame["log_density"].is_null().to_list() == (~frame["odd"]).to_list()
    at = asked["odd"].to_list().index(True)
    volume = 4 / 3 * math.pi * asked["neighbor_scores"][at][-1] ** 3
    searched = 70 - int(frame["odd"].sum())
    assert facts("of-asked")["searched"] == searched
    expected = digamma(3) - digamma(searched + 1) - math.log(volume)
    assert frame["log_density"][at] == pytest.approx(expected, rel=1e-5)


def test_no_row_at_all_has_neighbours() -> None:
    write((), table=pa.table({"id": ["a", "b"], "v": pa.array([None, None], pa.list_(pa.float32(), 3))}))
    done(job(HUBNESS | {"keep": []}, KNN))
    assert parts("knn").height == 0
    assert facts("knn")["calibration"] is None


def test_a_row_nobody_sought_neighbours_for_has_no_density() -> None:
    write((), table=pa.table({"id": ["a"], "v": to_arrow(np.ones((1, 3), np.float32))}))
    done(job(HUBNESS | {"keep": []}, KNN))
    assert parts("knn").select(list(COLUMNS)).null_count().row(0) == (1,) * 6


@pytest.mark.parametrize("estimator", [gaussian, iwae])
def test_calibration_rows_are_those_held_out_and_their_percentiles_are_uniform(estimator: Any) -> None:
    write(range(200))
    done(job(vae(), estimator(fit_on="normal", keep=["odd"], input="input")))
    frame = parts().filter(~pl.col("odd"))
    theirs = frame.filter(pl.Series(held(frame["id"].to_list())))
    pinned = calibration()
    np.testing.assert_allclose(np.sort(theirs["log_density"].to_numpy()), pinned, rtol=1e-6)
    m = len(pinned)
    assert facts()["calibration"]["rows"] == m > 25
    assert facts()["calibration"]["mean"] == pytest.approx(pinned.mean())
    assert facts()["calibration"]["standard_deviation"] == pytest.approx(pinned.std())
    places = np.sort(theirs["density_percentile"].to_numpy())
    np.testing.assert_allclose(
        places, (np.arange(m) + 0.5) / m * 100, atol=100 / m
    )  # a rounding may move one by a rank
    below = [(pinned < value).mean() * 100 for value in parts()["log_density"]]
    np.testing.assert_allclose(parts()["density_percentile"], below, atol=100 / m)


def test_pinned_percentiles_stay_when_rows_come() -> None:
    write(range(150))
    done(job(gaussian()))
    before, digests = parts(), stamps("out/d/density")
    write(range(150, 260), "b", shift=0.5)
    result = done(job(gaussian()))
    new = fresh(result)["density"]
    assert 0 < len(new) < len(result.stages[-1].units)
    after = parts()
    assert after.height == 260
    assert after[:150].equals(before)
    assert all(stamps("out/d/density")[p] == at for p, at in digests.items() if p.name.startswith("part-"))


def test_refitting_on_drift() -> None:
    write(range(150))
    done(job(gaussian(refit="on-drift", max_drift=0.2)))
    mean = facts()["calibration"]["mean"]
    write(range(150, 200), "b")
    result = done(job(gaussian(refit="on-drift", max_drift=0.2)))
    assert "kept" in result.stages[0].note
    assert facts()["calibration"]["mean"] == mean
    write(range(200, 420), "c", shift=9)
    result = done(job(gaussian(refit="on-drift", max_drift=0.2)))
    assert "over max_drift 0.2" in result.stages[0].note
    assert facts()["calibration"]["mean"] != mean
    ids = parts()["id"].to_list()
    assert facts()["calibration"]["rows"] == held(ids).sum()
    done(job(gaussian(), output="out/whole"))
    np.testing.assert_allclose(parts()["log_density"], parts(output="out/whole")["log_density"], rtol=1e-9)


def image_table(count: int) -> tuple[pa.Table, np.ndarray]:
    """Vectors of whole levels 0 to 4."""
    rng = np.random.default_rng(1)
    levels = rng.binomial(4, np.linspace(0.1, 0.9, 6), (count, 6))
    ids = [f"i{n:04d}" for n in range(count)]
    return pa.table({"id": ids, "v": to_arrow(levels.astype(np.float32))}), levels


def test_scores_by_their_formulas() -> None:
    table, levels = image_table(120)
    write((), table=table)
    model = vae(likelihood="discretised-logistic", levels=5)
    names = ("nll", "typicality", "complexity")
    scored = [iwae(name=name, score=name, input="input") for name in names]
    done(job(model, *scored))
    found = {name: parts(name) for name in names}
    density = found["nll"]["log_density"].to_numpy()
    assert all((found[name]["log_density"] == found["nll"]["log_density"]).all() for name in names)
    np.testing.assert_allclose(found["nll"]["density_score"], -density)
    mean = density[held(found["nll"]["id"].to_list())].mean()
    np.testing.assert_allclose(found["typicality"]["density_score"], np.abs(density - mean), atol=1e-5)
    empty = len(zlib.compress(b"", 9))
    bits = np.array([8 * (len(zlib.compress(bytes(row.tolist()), 9)) - empty) for row in levels])
    np.testing.assert_allclose(found["complexity"]["density_score"], -density - bits * math.log(2))
    assert (density < 0).all(), "probabilities"
    told, chosen = facts("nll"), held(found["nll"]["id"].to_list())
    assert told["discrete"] is True
    assert told["compression"]["rows"] == chosen.sum()
    assert told["compression"]["bits"] == pytest.approx(-density[chosen].sum() / math.log(2), rel=1e-5)
    assert told["compression"]["raw_bits"] == pytest.approx(chosen.sum() * 6 * math.log2(5))
    assert 0 < told["compression"]["zlib_bits"] <= chosen.sum() * 6 * 8 + 200


def test_another_score_does_not_calibrate_again() -> None:
    write(range(150))
    done(job(gaussian()))
    before = {p: at for p, at in stamps("out/d/density").items() if "fold" in str(p)}
    assert before
    pinned = calibration()
    result = done(job(gaussian(score="typicality", keep=["odd"], labels="odd")))
    assert len(fresh(result)["density"]) == len(result.stages[0].units)
    assert {p: stamps("out/d/density")[p] for p in before} == before
    np.testing.assert_array_equal(calibration(), pinned)
    assert facts()["score"] == "typicality"
    np.testing.assert_allclose(parts()["density_score"], np.abs(parts()["log_density"] - pinned.mean()))


@pytest.mark.parametrize("stages", [(vae(), iwae()), (gaussian(),)])
def test_a_second_run_has_nothing_to_do(stages: Any) -> None:
    write(range(100))
    done(job(*stages))
    before = stamps("out/d/density", *(["out/d/vae"] if len(stages) > 1 else []))
    assert done(job(*stages)).status == "unchanged"
    assert {p: stamps("out/d")[p] for p in before} == before
    assert kx.plan(job(*stages)).to_do == 0


def test_densities_do_not_depend_on_the_other_rows() -> None:
    write(range(120))
    done(job(vae(), iwae()))
    shutil.copytree("out/d/vae/_artifact", "model")
    whole = parts()
    for path in Path("rows").iterdir():
        path.unlink()
    order = np.random.default_rng(0).permutation(70)  # fewer rows, elsewhere, in another order
    write(order[:33], "x")
    write(order[33:], "y")
    other = job(iwae(model="model"), output="out/other")
    other["input"]["shard_size"] = "1MB"
    done(other)
    found = parts(output="out/other")
    common = whole.filter(pl.col("id").is_in(found["id"].implode()))
    assert common.height == found.height == 70
    for name in ("log_density", "elbo"):
        np.testing.assert_allclose(found[name], common[name], atol=1e-5, rtol=1e-6)
    np.testing.assert_allclose(found["ess"], common["ess"], rtol=1e-4)
    seeded = other | {"job": other["job"] | {"seed": 1, "output": "out/seed"}}
    done(seeded)
    again = parts(output="out/seed")
    assert not np.allclose(again["log_density"], found["log_density"], atol=1e-5)
    np.testing.assert_allclose(
        again["log_density"].median(), found["log_density"].median(), atol=1.0
    )  # another estimate of the same


def test_a_model_folder_of_another_output() -> None:
    write(range(100))
    done(job(vae(), iwae()))
    one = parts()
    done(job(iwae(model="out/d/vae/_artifact"), output="out/other"))
    np.testing.assert_array_equal(parts(output="out/other")["log_density"], one["log_density"])
    assert done(job(iwae(model="out/d/vae/_artifact"), output="out/other")).status == "unchanged"
    done(job(vae(training={"steps": 9}), iwae()))  # another model in the same folder
    result = done(job(iwae(model="out/d/vae/_artifact"), output="out/other"))
    assert len(fresh(result)["density"]) == len(result.stages[-1].units)
    assert not parts(output="out/other")["log_density"].equals(one["log_density"])


def test_rows_that_are_no_numbers_are_set_aside() -> None:
    write(range(120))
    table = table_of(range(120, 140))
    vectors = np.array([vector(n) for n in range(120, 140)], np.float32)
    vectors[2, 1], vectors[5, 0] = np.nan, np.inf
    column = pa.array([None if i == 9 else row.tolist() for i, row in enumerate(vectors)], pa.list_(pa.float32()))
    write((), "b", table=table.set_column(1, "v", column))
    pq.write_table(
        table_of(range(120)).set_column(1, "v", table_of(range(120))["v"].cast(column.type)), "rows/a.parquet"
    )
    wrong = {("r00122", "not-finite"), ("r00125", "not-finite"), ("r00129", "null-vector")}
    result = done(job(vae(), iwae(), gaussian(name="normal", input="input")))
    for stage in ("vae", "density", "normal"):
        assert set(aside(stage)) == wrong
    assert [stage.rows_quarantined for stage in result.stages] == [3, 3, 3]
    assert parts().height == parts("normal").height == 137


def far(values: list[float]) -> pa.Table:
    """Rows r00100... with these numbers, none of which is to be fitted on."""
    rows = table_of(range(100, 100 + len(values)))
    rows = rows.set_column(rows.column_names.index("a"), "a", pa.array(values))
    return rows.set_column(rows.column_names.index("normal"), "normal", pa.array([False] * len(values)))


def test_numbers_whose_squares_overflow_are_set_aside() -> None:
    write(range(100))
    write((), "b", table=far([1.0, 1e300, 2.0, -1e200, 1e99]))
    done(job(vae(columns="a"), gaussian(columns="a")))
    wrong = [("r00101", "not-finite"), ("r00103", "not-finite")]
    assert aside() == aside("vae") == wrong
    assert parts()["log_density"].is_finite().all()


@pytest.mark.filterwarnings("ignore:overflow encountered in cast")  # of 1e60 to float32: that is the point
def test_a_row_infinitely_far_from_all_others_is_set_aside_and_calibrates_nothing() -> None:
    write(range(100))
    write((), "b", table=far([1.0, *([1e60] * 20)]))
    done(job(vae(columns="a", fit_on="normal"), iwae(columns="a")))
    assert set(aside()) == {(f"r{n:05d}", "no-density") for n in range(101, 121)}
    ids = parts()["id"].to_list()
    assert len(ids) == 101
    assert facts()["calibration"]["rows"] == len(calibration()) == held(ids).sum()
    assert held([f"r{n:05d}" for n in range(101, 121)]).any(), "or nothing is tested"
    assert np.isfinite(calibration()).all()
    assert np.isfinite(facts()["latent"]["variance"]).all()


@pytest.mark.parametrize(
    ("density", "words"),
    [
        ({"labels": "odd"}, ("labels = 'odd' must be in keep",)),
        ({"samples": 0}, ("samples", "greater than or equal to 1")),
        ({"model": None}, ("estimator = 'iwae' needs a model",)),
        ({"estimator": "gaussian"}, ("leave model out",)),
        ({"estimator": "knn"}, ("leave columns out",)),
        (
            {"columns": "a"},
            ("'stage:vae' is trained on input.v", "reads input.a", "write the same input and columns in both"),
        ),
        ({"columns": ["v", "a"]}, ("reads input.v, input.a",)),
        ({"columns": ["v", "v"]}, ("names a column twice",)),
        ({"columns": ["v", "odd"]}, ("'odd' is no number, vector or image column but other",)),
        ({"columns": "w"}, ("no column 'w'",)),
        ({"fit_on": "nrmal"}, ("no column 'nrmal'", "did you mean 'normal'")),
        ({"calibration_share": 0.3}, ("calibration_share = 0.3", "held out 0.2", "validation_share = 0.3")),
        ({"score": "complexity"}, ("whole levels",)),
        ({"score": "typicality", "calibration_share": 0}, ("needs calibration rows",)),
        ({"model": "stage:density"}, ("leaves a density model", "stage:vae")),
        ({"model": "nowhere"}, ("'nowhere' is no trained density model", "config.json")),
        ({"keep": ["log_density"]}, ("no column 'log_density'",)),
        ({"gate": {"percentile": 2}}, ("percentile = 2", "0.1, 1, 5, 10")),
        ({"gate": {"max_share_below_percentile": 0.1}, "calibration_share": 0}, ("needs calibration rows",)),
        ({"gate": {"max_mean_drift": 0.1}, "calibration_share": 0}, ("needs calibration rows",)),
        ({"gate": {"max_mean_drift": 0.1}, "refit": "always"}, ("fits the very rows that a gate is to find",)),
        ({"reference": "s3://bucket/out/density/_artifact"}, ("not a URL",)),
    ],
)
def test_mistakes_are_found_before_anything_runs(density: dict[str, Any], words: tuple[str, ...]) -> None:
    write(range(30))
    refused(job(vae(), iwae(**density)), *words)


def test_lists_that_are_no_distances_are_refused() -> None:
    write(range(30))
    refused(job(HUBNESS | {"metric": "inner"}, KNN), "whose scores are no distances")
    refused(job(HUBNESS | {"reduction": "mutual-proximity-normal", "metric": "cosine"}, KNN), "reduction")
    lists = {"kind": "density", "name": "other", "estimator": "knn", "model": "stage:before", "input": "hubness"}
    refused(job(gaussian(name="before"), HUBNESS, lists), "kind 'density'", "reads the lists of a hubness stage")


def test_a_model_folder_that_does_not_fit_is_refused() -> None:
    write(range(60))
    done(job(vae()))
    folder = "out/d/vae/_artifact"
    refused(job(iwae(model=folder, columns="a"), output="out/d2"), "was trained on v, not on a", "set columns = ['v']")
    refused(job(iwae(model=folder, calibration_share=0.5), output="out/d2"), "calibration_share = 0.5", "held out 0.2")
    refused(job(iwae(model=folder, score="complexity"), output="out/d2"), "whole levels")


def widths(count: int, first: int, width: int) -> pa.Table:
    """Vectors of any width."""
    rows = np.random.default_rng(first).normal(size=(count, width)).tolist()
    return pa.table({"id": [f"w{n}" for n in range(first, first + count)], "v": pa.array(rows, pa.list_(pa.float32()))})


def test_rows_of_another_width_than_the_model_are_set_aside_by_name() -> None:
    write((), table=widths(100, 0, 3))
    done(job(vae(), iwae()))
    write((), "b", table=widths(30, 500, 5))  # all of a shard
    result = run(job(iwae(model="out/d/vae/_artifact"), output="out/e"))
    assert result.exit_code == 0
    assert parts(output="out/e").height == 100
    rows = read_quarantine(Folder(str(Path("out/e/density").absolute()))).to_pylist()
    assert {(row["error"], row["message"]) for row in rows} == {("vector-length", "column 'v': its length is not 3")}


def test_rows_of_another_width_than_the_normal_distribution_are_set_aside() -> None:
    write((), table=widths(100, 0, 3))
    done(job(gaussian()))
    pinned = calibration()
    write((), "b", table=widths(30, 500, 5))  # a shard in which all rows are so
    done(job(gaussian()))
    assert parts().height == 100
    assert len(aside()) == 30
    assert {error for _, error in aside()} == {"vector-length"}
    assert (calibration() == pinned).all()


def test_of_different_widths_those_of_most_rows_are_fitted() -> None:
    column = pa.array(
        [[1.0, 2.0]] * 40 + [[1.0 + i, 2.0 + i % 7, 3.0 - i * i] for i in range(60)], pa.list_(pa.float32())
    )
    for first, last, name in ((0, 40, "a"), (40, 100, "b")):
        ids = [f"r{i:04d}" for i in range(first, last)]
        write((), name, table=pa.table({"id": ids, "v": column[first:last]}))
    done(job(gaussian()))
    assert parts().height == 60
    assert len(aside()) == 40


def test_rows_that_say_nothing_have_no_normal_distribution() -> None:
    table = pa.table({"id": [f"r{i}" for i in range(30)], "v": to_arrow(np.ones((30, 3), np.float32))})
    write((), table=table)
    result = run(job(gaussian()))
    assert result.exit_code == 3
    assert "columns v: no normal distribution" in result.message
    write(range(30))
    shutil.rmtree("out")
    nobody = table_of(range(30)).set_column(4, "normal", pa.array([None] * 30, pa.bool_()))
    write((), table=nobody)
    result = run(job(gaussian(fit_on="normal")))
    assert result.exit_code == 3
    assert "no normal distribution" in result.message


def test_fit_on_must_be_boolean() -> None:
    write(range(30))
    result = run(job(gaussian(fit_on="a")))
    assert result.exit_code == 3
    assert "fit_on: column 'a' has type double" in result.failures[0].message


def test_without_calibration_there_are_no_percentiles() -> None:
    write(range(80))
    done(job(vae(), iwae(calibration_share=0)))
    assert parts()["density_percentile"].null_count() == 80
    assert facts()["calibration"] is None
    assert facts()["convergence"] == []
    assert facts()["latent"] is None


def test_at_most_so_many_rows_calibrate_whatever_the_shards() -> None:
    write(range(200))
    done(job(gaussian(calibration_rows=10)))
    assert len(calibration()) == 10
    whole = job(gaussian(calibration_rows=10), output="out/one")
    whole["input"]["shard_size"] = "1MB"
    done(whole)
    np.testing.assert_allclose(calibration(), calibration(output="out/one"), rtol=1e-9)


def test_one_sample_is_the_elbo_and_has_no_error() -> None:
    write(range(60))
    done(job(vae(), iwae(samples=1)))
    frame = parts()
    np.testing.assert_allclose(frame["elbo"], frame["log_density"], atol=1e-9)
    assert frame["density_stderr"].null_count() == 60
    assert frame["ess"].to_list() == [1] * 60
    assert [point["samples"] for point in facts()["convergence"]] == [1]


def test_numbers_and_vectors_together() -> None:
    write(range(100))
    done(
        job(
            vae(columns=["a", "v"]),
            iwae(columns=["a", "v"]),
            gaussian(name="normal", input="input", columns=["v", "a"]),
        )
    )
    assert facts()["dim"] == facts("normal")["dim"] == 4
    assert facts("normal")["rank"] == 3, "the number is ten times the vector's first value"


@pytest.mark.slow
def test_one_worker_and_four_on_ray_write_the_same_bytes(ray_session: None) -> None:
    write(range(150))
    done(job(vae()))
    shutil.copytree("out/d/vae/_artifact", "model")
    scored = (iwae(model=str(Path("model").absolute())), gaussian(name="normal", input="input"))
    one = None
    for workers in (1, 4):
        wanted = [stage | {"resources": {"workers": workers, "cpus": 0.5}} for stage in scored]
        done(job(*wanted, output=f"out/{workers}", executor="ray"))
        found = tree_digests(Path(f"out/{workers}"))
        one = one or found
        assert found == one
    assert one is not None
    assert len(one) > 6
    done(job(*scored, output="out/inline"))
    assert tree_digests(Path("out/inline")) == one


def test_a_reference_places_rows_among_those_of_another_output() -> None:
    write(range(200))
    done(job(vae(), iwae(), gaussian(name="normal", input="input")))
    write(range(200), shift=60.0)  # another night: the same ids, other values
    elsewhere = {"model": "out/d/vae/_artifact", "reference": "out/d/density/_artifact", "calibration_share": 0.9}
    done(
        job(
            iwae(**elsewhere),
            gaussian(name="normal", input="input", reference="out/d/normal/_artifact"),
            output="out/night",
        )
    )
    for stage in ("density", "normal"):
        pinned = calibration(stage=stage)
        found = pl.read_parquet(f"out/night/{stage}/part-*.parquet")
        below = np.searchsorted(pinned, found["log_density"].to_numpy()) * 100 / len(pinned)
        np.testing.assert_allclose(found["density_percentile"], below, atol=50 / len(pinned) + 1e-4)
        assert not Path(f"out/night/{stage}/_artifact").exists()
    assert found["density_percentile"].mean() < 20  # so far off they are odd beside the rows before


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"samples": 13}, ("samples 12 there, 13 here",)),
        ({"reference": "out/d/normal/_artifact"}, ("estimator 'gaussian' there, 'iwae' here",)),
        ({"reference": "nowhere"}, ("no artifact of a density stage", "nowhere")),
        ({"model": "out/d/other/_artifact"}, ("has other densities: model",)),
    ],
)
def test_a_reference_of_something_else_is_refused(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    write(range(100))
    done(job(vae(), vae(name="other", latent=3), iwae(), gaussian(name="normal", input="input")))
    given = {"model": "out/d/vae/_artifact", "reference": "out/d/density/_artifact"}
    with pytest.raises(ConfigError) as caught:
        kx.run(job(iwae(**given | changes), output="out/night"), quiet=True, report=False)
    for word in words:
        assert word in str(caught.value)


def test_lists_of_another_stage_are_refused() -> None:
    write(range(60))
    refused(
        job(HUBNESS, HUBNESS | {"name": "others"}, KNN), "lists it reads are those of 'others'", "input = 'hubness'"
    )


def test_a_null_inside_a_vector_sets_its_row_aside() -> None:
    table = table_of(range(60))
    values: list[list[float | None]] = [list(vector(n)) for n in range(60)]
    values[7][1] = None
    column = pa.array(values, pa.list_(pa.float32(), 3))
    write(range(60), table=table.set_column(1, "v", column))
    done(job(gaussian()))
    assert aside() == [("r00007", "not-finite")]


def test_a_model_of_another_stages_column_of_the_same_name_is_refused() -> None:
    write(range(60))
    whiten = {"kind": "whiten", "column": "v", "input": "input"}
    first, second = (whiten | {"name": name, "beta": beta} for name, beta in (("w1", 1.0), ("w2", 0.1)))
    model = vae(input="w1", columns="whitened")
    refused(
        job(first, second, model, iwae(input="w2", columns="whitened")), "trained on w1.whitened", "reads w2.whitened"
    )
    kept = gaussian(name="kept", input="w1", columns="whitened", keep=["whitened"])
    done(job(first, model, kept, iwae(input="kept", columns="whitened")))  # the same column, passed on


def test_a_row_has_the_same_complexity_whatever_lies_beside_it() -> None:
    row, other = np.arange(12) % 5, np.full(12, 300)
    score = SCORES["complexity"]
    alone = score(np.array([-7.0]), np.empty(0), row[None].astype(float), 400)
    beside = score(np.array([-7.0, -9.0]), np.empty(0), np.stack([row, other]).astype(float), 400)
    assert alone[0] == beside[0]


def test_vectors_of_doubles_keep_their_digits() -> None:
    """Seconds since 1970, a few apart: float32 cannot tell them."""
    rng = np.random.default_rng(0)
    seconds = 1.7e9 + rng.normal(0, 0.5, (80, 2))
    columns = {"id": [f"r{i}" for i in range(80)], "v": pa.array(list(seconds)), "a": seconds[:, 0], "b": seconds[:, 1]}
    write((), table=pa.table(columns))
    done(job(gaussian(), gaussian(name="numbers", input="input", columns=["a", "b"])))
    np.testing.assert_allclose(parts()["log_density"], parts("numbers")["log_density"], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": float("nan")}, ("config.json", "held_out")),
        ({"widths": [7]}, ("do not agree",)),
        ({"network.hidden": ["a"]}, ("network.hidden",)),
        ({"network.latent": -1}, ("network.latent",)),
        ({"network.scale_size": "x"}, ("network.scale_size",)),
        ({"network.hidden": [2**24]}, ("does not belong to the config.json beside it",)),  # 200 MB a layer
        ({"network.likelihood": "poisson"}, ("network.likelihood",)),
    ],
)
def test_a_model_folder_that_was_tampered_with_is_refused(change: dict[str, Any], words: tuple[str, ...]) -> None:
    write(range(60))
    done(job(vae()))
    shutil.copytree("out/d/vae/_artifact", "model")
    found = json.loads(Path("model/config.json").read_text())
    for key, value in change.items():
        *path, last = key.split(".")
        target = found
        for part in path:
            target = target[part]
        target[last] = value
    Path("model/config.json").write_text(json.dumps(found))
    try:
        result = run(job(iwae(model="model"), output="out/e"))
        assert result.exit_code == 2
        said = result.message
    except ConfigError as error:
        said = str(error)
    for word in words:
        assert word in said
