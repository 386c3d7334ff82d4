"""The density stage with a diffusion model: the bound of every row, where its bits go, and which models have none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from density_jobs import calibration, done, facts, fresh, gaussian, held, iwae, job, parts, table_of, vae, write

import kxbatch as kx
from kxbatch.data.row_draws import row_keys
from kxbatch.data.vectors import to_arrow
from kxbatch.errors import ConfigError
from kxbatch.models.diffusion.likelihood import BoundScorer
from kxbatch.models.diffusion.trained import TrainedDiffusion

pytestmark = pytest.mark.usefixtures("workplace")
FOLDER = "out/d/ddpm/_artifact"


def ddpm(**changes: Any) -> dict[str, Any]:
    """A tiny model of `v`."""
    training = {"steps": 6, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32", "log_every": 1}
    training |= changes.pop("training", {})
    noise, mlp = {"steps": 20, "last": 0.3}, {"width": 8, "layers": 1}
    return {"kind": "ddpm", "columns": "v", "noise": noise, "mlp": mlp, "training": training} | changes


def bound(**changes: Any) -> dict[str, Any]:
    """Bounds by that model."""
    known = {"kind": "density", "input": "input", "columns": "v", "estimator": "diffusion", "model": "stage:ddpm"}
    return known | {"calibration_share": 0.2} | changes


def refused(of: dict[str, Any], *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        kx.run(of, quiet=True, report=False)
    for word in words:
        assert word in str(caught.value)
    assert not Path(of["job"]["output"], "density").exists()


def labelled(count: int) -> None:
    table = table_of(range(count))
    write((), table=table.append_column("kind", [[("a", "b", None)[n % 3] for n in range(count)]]))


def levels_of(numbers: range, count: int = 5, width: int = 6) -> Any:
    """Vectors of whole levels, each row by its number."""
    chances = np.linspace(0.1, 0.9, width)
    return np.array([np.random.default_rng(n).binomial(count - 1, chances) for n in numbers])


def test_every_row_has_the_bound_of_the_trained_model() -> None:
    write(range(150))
    done(job(ddpm(), bound(keep=["odd"], labels="odd", samples=3)))
    frame = parts()
    names = ["log_density", "bits_per_dim", "density_stderr", "ess", "density_percentile", "density_score"]
    assert frame.columns == ["id", "odd", *names]
    assert frame["ess"].null_count() == 150
    table = table_of(range(150))
    x = np.array(table["v"].to_pylist(), np.float64)
    scorer = BoundScorer(TrainedDiffusion.load(Path(FOLDER)), draws=3)
    expected = scorer.estimate(x, row_keys(table["id"].to_pylist()))
    np.testing.assert_allclose(frame["log_density"], expected.log_density, rtol=1e-5)
    np.testing.assert_allclose(frame["density_stderr"], expected.stderr, rtol=1e-2)
    np.testing.assert_allclose(frame["bits_per_dim"], -frame["log_density"] / (3 * math.log(2)))
    np.testing.assert_allclose(frame["density_score"], -frame["log_density"])
    told, chosen = facts(), held(frame["id"].to_list())
    assert (told["estimator"], told["samples"], told["steps"], told["discrete"]) == ("diffusion", 3, None, False)
    assert told["schedule"] == "linear(T=20, first=0.0001, last=0.3)"
    assert told["calibration"]["rows"] == chosen.sum() == len(calibration())
    np.testing.assert_allclose(calibration(), np.sort(expected.log_density[chosen]), rtol=1e-5)
    terms = told["bound"]
    assert [(one["first"], one["last"], one["steps"]) for one in terms["steps"]] == [(t, t, 1) for t in range(2, 21)]
    np.testing.assert_allclose(terms["prior"], expected.prior[chosen].mean(), rtol=1e-4)
    np.testing.assert_allclose(terms["decoder"], expected.decoder[chosen].mean(), rtol=1e-4)
    steps = [one["bits"] for one in terms["steps"]]
    np.testing.assert_allclose(steps, expected.steps[chosen].mean(axis=0), rtol=1e-4)
    spread = np.log2(TrainedDiffusion.load(Path(FOLDER)).scaling.spread).mean()
    together = terms["prior"] + sum(steps) + terms["decoder"] + spread
    assert together == pytest.approx(frame.filter(pl.Series(chosen))["bits_per_dim"].mean(), rel=1e-4)


def test_of_whole_levels_it_is_a_probability_and_a_code_length() -> None:
    """One draw: no error is known. Trained a little, rows are likelier than levels all alike, and than rows in disorder."""
    x = levels_of(range(400))
    write((), table=table_of(range(400)).set_column(1, "v", to_arrow(x.astype(np.float32))))
    training = {"steps": 600, "optimizer": {"rate": 0.01}}
    # b_1 is about half the distance of two levels
    model = ddpm(scaling="levels", levels=5, noise={"steps": 20, "first": 0.05, "last": 0.4}, training=training)
    done(job(model | {"mlp": {"width": 32, "layers": 1}}, bound(score="complexity")))
    frame = parts()
    assert (frame["log_density"] < 0).all()
    assert frame["density_stderr"].null_count() == 400
    told = facts()
    assert (told["discrete"], told["levels"], told["dim"]) == (True, 5, 6)
    chosen = held(frame["id"].to_list())
    assert told["compression"]["rows"] == chosen.sum()
    code = -frame.filter(pl.Series(chosen))["log_density"].sum() / math.log(2)
    assert told["compression"]["bits"] == pytest.approx(code, rel=1e-5)
    mean = frame["bits_per_dim"].mean()
    assert mean < math.log2(5)
    shuffled = np.random.default_rng(0).permuted(x, axis=1).astype(np.float32)
    write((), table=table_of(range(400)).set_column(1, "v", to_arrow(shuffled)))
    done(job(bound(model=FOLDER, calibration_share=0), output="out/shuffled"))
    assert parts(output="out/shuffled")["bits_per_dim"].mean() > mean + 0.5


def test_bounds_do_not_depend_on_shards_and_workers() -> None:
    """The batches of a shard begin with it: within the rounding of float32; the same shards by two workers, bit for bit."""
    write(range(120))
    done(job(ddpm(), bound(samples=2)))
    whole = parts()
    other = job(bound(model=FOLDER, samples=2), output="out/other")
    other["input"]["shard_size"] = "1MB"
    done(other)
    for name in ("log_density", "density_stderr"):
        np.testing.assert_allclose(parts(output="out/other")[name], whole[name], atol=1e-4, rtol=1e-5)
    done(job(bound(model=FOLDER, samples=2), output="out/workers", executor="ray"))
    assert parts(output="out/workers").equals(whole)
    assert done(job(ddpm(), bound(samples=2))).status == "unchanged"
    seeded = job(bound(model=FOLDER, samples=2), output="out/seed")
    done(seeded | {"job": seeded["job"] | {"seed": -1}})
    again = parts(output="out/seed")["log_density"]
    assert not np.allclose(again, whole["log_density"], atol=1e-3)


def test_one_draw_is_the_same_written_or_left_out() -> None:
    write(range(60))
    done(job(ddpm(), bound()))
    assert done(job(ddpm(), bound(samples=1))).status == "unchanged"
    assert fresh(done(job(ddpm(), bound(steps=5))))["density"]
    assert facts()["steps"] == 5
    assert [one["first"] for one in facts()["bound"]["steps"]] == [8, 12, 16, 20]


def test_a_model_that_knows_classes_and_can_go_without_has_its_bound_without() -> None:
    labelled(60)
    done(job(ddpm(class_column="kind"), bound()))
    model = TrainedDiffusion.load(Path(FOLDER))
    table = table_of(range(60))
    found = BoundScorer(model).estimate(np.array(table["v"].to_pylist()), row_keys(table["id"].to_pylist()))
    assert model.classes == ("a", "b")
    np.testing.assert_allclose(parts()["log_density"], found.log_density, rtol=1e-4)


def test_a_model_that_cannot_go_without_classes_is_refused() -> None:
    labelled(60)
    only = ddpm(class_column="kind", class_dropout=0)
    refused(job(only, bound()), "'stage:ddpm' has only learned to see classes", "class_dropout above 0")
    done(job(only))
    refused(job(bound(model=FOLDER), output="out/e"), "only learned to see classes")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"columns": "a"}, ("'stage:ddpm' is trained on input.v", "reads input.a")),
        ({"calibration_share": 0.3}, ("calibration_share = 0.3", "held out 0.2")),
        ({"steps": 21}, ("steps = 21", "trained with 20")),
        ({"steps": 0}, ("steps", "greater than or equal to 1")),
        ({"score": "complexity"}, ("whole levels",)),
        ({"model": None}, ("estimator = 'diffusion' needs a model",)),
        ({"model": "stage:vae"}, ("'stage:vae'", "leaves a diffusion model", "stage:ddpm")),
        ({"estimator": "iwae"}, ("leaves a density model", "stage:vae")),
        ({"estimator": "iwae", "model": "stage:vae", "steps": 5}, ("steps goes with estimator = 'diffusion'",)),
        ({"model": "nowhere"}, ("'nowhere' is no trained diffusion model", "config.json")),
    ],
)
def test_mistakes_are_found_before_anything_runs(changes: dict[str, Any], words: tuple[str, ...]) -> None:
    write(range(30))
    refused(job(vae(), ddpm(), bound(**changes)), *words)


def test_a_folder_that_does_not_fit_is_refused() -> None:
    write(range(60))
    done(job(vae(), ddpm(input="input")))
    elsewhere = {"output": "out/e"}
    refused(job(bound(model=FOLDER, columns="a"), **elsewhere), "was trained on v, not on a", "set columns = ['v']")
    refused(job(bound(model=FOLDER, calibration_share=0.5), **elsewhere), "held out 0.2")
    refused(job(bound(model=FOLDER, steps=21), **elsewhere), "trained with 20")
    refused(job(bound(model="out/d/vae/_artifact"), **elsewhere), "out/d/vae/_artifact", "architecture")
    refused(job(iwae(model=FOLDER), **elsewhere), FOLDER)


def test_a_reference_has_the_same_bounds() -> None:
    write(range(60))
    done(job(ddpm(), bound(steps=5)))
    reference = "out/d/density/_artifact"
    again = bound(model=FOLDER, steps=5, reference=reference)
    done(job(again, output="out/e"))
    assert parts(output="out/e").equals(parts())
    refused(job(again | {"steps": 4}, output="out/e2"), "steps 5 there, 4 here")
    refused(job(again | {"samples": 2}, output="out/e2"), "samples 1 there, 2 here")


def test_it_stands_beside_other_densities_in_the_report() -> None:
    write(range(120))
    stages = (vae(), ddpm(input="input"), bound(name="bound"), iwae(input="input"), gaussian(name="n", input="input"))
    assert kx.run(job(*stages), quiet=True).exit_code == 0
    page = Path("out/d/report.html").read_text(encoding="utf-8")
    assert "Terms of the bound" in page
    assert "diffusion, a bound" in page
    for pair in ("bound and density", "bound and n"):
        assert pair in page
    mean = -parts("bound")["log_density"].mean() / (3 * math.log(2))
    assert f"{mean:.3f}".replace("-", "−") in page
