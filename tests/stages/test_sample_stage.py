"""The sample stage through the engine: which rows it makes, that they are the same however they are made, and what it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from density_jobs import job as density_job
from density_jobs import table_of, vae, write
from sampling_jobs import CENTRE, SPREAD, done, fresh, image_model, job, rows, sample, vector_model
from support import sealed, tree_digests

import kxbatch as kx
from kxbatch.cli import cli
from kxbatch.data.images import decode, encode
from kxbatch.engine.verify import verify
from kxbatch.errors import ConfigError, FatalError
from kxbatch.kernels.diffusion import START, Ddim, RowNoise, spaced_times
from kxbatch.kernels.diffusion import sample as sample_from
from kxbatch.models.diffusion.generator import DiffusionGenerator, Sampling
from kxbatch.models.diffusion.trained import TrainedDiffusion
from kxbatch.models.latents import Latents, draw_latents

pytestmark = pytest.mark.usefixtures("workplace")
# Runs the job, and is gone in the middle of the batch whose first sample is 12.
KILLED = """
import json, os, signal, kxbatch
from kxbatch.models.vae_generator import VaeGenerator
made = VaeGenerator.generate
def generate(self, ids):
    if ids[0] == 12:
        os.kill(os.getpid(), signal.SIGKILL)
    return made(self, ids)
VaeGenerator.generate = generate
kxbatch.run(json.load(open("job.json")), quiet=True, report=False)
"""


def test_samples_are_means_of_what_the_decoder_makes_of_their_noise() -> None:
    model, _ = vector_model()
    done(job(sample(), seed=7))
    found = rows()
    assert found["id"].to_list() == [str(number) for number in range(10)]
    assert found["sample_id"].to_list() == list(range(10))
    assert found["seed"].to_list() == [7] * 10
    assert found.columns == ["id", "sample_id", "vector", "seed"]
    with torch.no_grad():
        u = model.decoder(RowNoise(7, range(10)).draw(START, (2,)))[:, 0].double().numpy()
    np.testing.assert_allclose(found["vector"].to_numpy(), CENTRE + SPREAD * np.sinh(2 * u) / 5, rtol=1e-4)
    done(job(sample(), output="out/other", seed=8))
    assert not (rows("out/other")["vector"].to_numpy() == found["vector"].to_numpy()).any()


def test_images_are_pngs_of_the_levels() -> None:
    model, _ = image_model(channels=3)
    done(job(sample()))
    with torch.no_grad():
        u = model.decoder(RowNoise(0, range(10)).draw(START, (2,)))[:, 0].clamp(0, 1).numpy()
    for png, values in zip(rows()["image"], u, strict=True):
        pixels = decode(png)
        assert pixels is not None
        assert pixels.shape == (6, 5, 3)
        np.testing.assert_allclose(pixels.reshape(-1), values * 255, atol=0.51)


def test_a_sample_is_the_same_in_any_shard_and_beside_any_other() -> None:
    vector_model()
    done(job(sample(count=37)))
    whole = rows()
    for place, changes in enumerate(({"shard_rows": 1}, {"shard_rows": 7}, {"shard_rows": 100}, {"count": 3})):
        done(job(sample(**{"count": 37, **changes}), output=f"out/{place}"))
        assert rows(f"out/{place}").equals(whole.head(changes.get("count", 37)))


def test_a_larger_count_adds_what_is_missing_and_a_smaller_one_takes_away() -> None:
    vector_model()
    done(job(sample()))
    before = tree_digests(Path("out/s"))
    assert fresh(done(job(sample(count=15, shard_rows=3)))) == {"sample": ["part-00003", "part-00004"]}
    assert before.items() <= tree_digests(Path("out/s")).items()
    assert rows()["sample_id"].to_list() == list(range(15))
    done(job(sample(count=15), output="out/whole"))
    assert rows().equals(rows("out/whole"))
    assert fresh(done(job(sample(count=9)))) == {"sample": ["part-00002"]}
    assert rows().equals(rows("out/whole").head(9))
    assert not verify("out/s").defects


def test_four_workers_on_ray_and_one_write_the_same_bytes(ray_session: None) -> None:
    write((), table=table_of(range(100)))
    done(diffusion_job({"steps": 2}))
    vector_model()
    latents = {"kinds": ["hubs", "prior"], "pool": 100, "k": 3, "threshold": 6}
    diffused = sample(model="out/d/ddpm/_artifact", count=40, steps=[3, 5], eta=[0, 1])
    decoded = sample(name="decoded", count=40, latents=latents)
    for where, executor, workers in (("inline", "inline", 1), ("one", "ray", 1), ("four", "ray", 4)):
        of = job(*(one | {"resources": {"workers": workers}} for one in (diffused, decoded)), output=f"out/{where}")
        of["job"]["executor"] = executor
        done(of)
    parts = [tree_digests(Path("out", where)) for where in ("inline", "one", "four")]
    assert parts[0] == parts[1] == parts[2]
    assert len(rows("out/four")) == len(rows("out/four", "decoded")) == 40


def test_a_limit_makes_the_first_and_the_next_run_the_rest() -> None:
    vector_model()
    assert done(job(sample()), limit=5).stages[0].rows_out == 5
    plan = kx.plan(job(sample())).phases[0]
    assert (plan.total, plan.done, plan.stale, plan.pending) == (3, 1, 1, 1)
    assert fresh(done(job(sample()))) == {"sample": ["part-00001", "part-00002"]}
    assert done(job(sample())).status == "unchanged"


def test_a_run_that_is_killed_goes_on_to_the_same_bytes() -> None:
    vector_model()
    Path("job.json").write_text(json.dumps(job(sample(count=30, shard_rows=5))))
    killed = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert fresh(done(job(sample(count=30, shard_rows=5)))) == {"sample": [f"part-{n:05d}" for n in range(2, 6)]}
    done(job(sample(count=30, shard_rows=5), output="out/whole"))
    assert tree_digests(Path("out/s")) == tree_digests(Path("out/whole"))


def test_what_decides_a_sample_makes_all_of_them_anew() -> None:
    vector_model()
    done(job(sample()))
    assert len(fresh(done(job(sample(batch_rows=3))))["sample"]) == 3
    assert len(fresh(done(job(sample(batch_rows=3), seed=1)))["sample"]) == 3
    vector_model("other", bias=0.1)
    assert len(fresh(done(job(sample(batch_rows=3, model="other"), seed=1)))["sample"]) == 3


def test_later_stages_read_samples_and_rows_of_the_input_stay_apart() -> None:
    write((), table=table_of(range(100)))
    of = density_job(vae(training={"steps": 2, "batch_rows": 32}), sample(model="stage:vae"), {"kind": "whiten"})
    of["stage"].append({"kind": "whiten", "name": "corpus", "input": "input", "column": "v"})
    of["input"]["id"] = None
    result = done(of)
    assert [stage.rows_out for stage in result.stages if stage.name != "vae"] == [10, 10, 100]
    frame = kx.open("out/d").scan().collect()
    assert frame.height == 110
    assert frame.filter(pl.col("sample_id").is_not_null())["whitened"].null_count() == 0
    assert frame["corpus.whitened"].null_count() == 10
    assert kx.open("out/d").scan(["sample", "whiten"]).collect().height == 10
    assert done(of).status == "unchanged"
    assert CliRunner().invoke(cli, ["export", "out/d", "--to", "flat"]).exit_code == 0
    assert pl.read_parquet("flat/*.parquet").height == 110
    trace = CliRunner().invoke(cli, ["lineage", "out/d/whiten/part-00001.parquet"]).output
    assert "samples 4-7" in trace
    assert "artifact vae" in trace


def test_what_samples_are_is_known_before_the_model_is() -> None:
    gaussian = {"kind": "density", "estimator": "gaussian"}
    pngs = [encode(np.full((6, 5, 1), level, np.uint8)) for level in range(20)]
    write((), table=pa.table({"id": [f"r{level}" for level in range(20)], "image": pa.array(pngs, pa.binary())}))
    pictures = vae(columns="image", likelihood="discretised-logistic", levels=5)
    kx.plan(density_job(pictures, sample(model="stage:vae"), gaussian | {"columns": "image"}))
    for column, model in (("vector", pictures), ("image", vae(columns="image"))):
        with pytest.raises(ConfigError, match=f"no column '{column}'"):
            kx.plan(density_job(model, sample(model="stage:vae"), gaussian | {"columns": column}))


def diffusion_job(*samples: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """A tiny diffusion model of `v` with classes, and samples of it."""
    training = {"steps": 2, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32"}
    model = {"kind": "ddpm", "columns": "v", "mlp": {"width": 8, "layers": 1}, "training": training}
    return density_job(model | changes, *(sample(model="stage:ddpm") | one for one in samples))


def test_samples_of_a_diffusion_model_tell_what_they_were_drawn_with() -> None:
    rows_of = table_of(range(100))
    write((), table=rows_of.append_column("kind", pa.array([7 + row % 2 for row in range(100)])))
    of = diffusion_job(
        {"steps": 3}, {"name": "eights", "solver": "heun", "steps": 2, "classes": 8}, class_column="kind"
    )
    done(of)
    found = rows("out/d")
    told = {name: found[name].unique().to_list() for name in ("seed", "steps", "eta", "guidance")}
    assert told == {"seed": [0], "steps": [3], "eta": [0.0], "guidance": [1.0]}
    assert found["class"].to_list() == ["7", "8"] * 5
    assert found["vector"].dtype == pl.Array(pl.Float32, 3)
    eights = rows("out/d", "eights")
    assert set(eights["class"]) == {"8"}
    assert "eta" not in eights.columns
    folder = sample(model="out/d/ddpm/_artifact")
    done(job(folder | {"steps": 3, "count": 23, "shard_rows": 5}))
    assert rows().head(10).equals(found)
    done(job(folder | {"classes": []}, output="out/none"))
    assert not {"class", "guidance"} & set(rows("out/none").columns)
    for changes, words in (
        ({"classes": "9"}, "classes: the model knows no class '9' \\(has: 7, 8\\)"),
        ({"steps": 1001}, "steps = 1001: the model was trained with 1000"),
        ({"classes": [], "guidance": 2}, "guidance = 2: there is no class to be guided to"),
    ):
        with pytest.raises(ConfigError, match=words):
            kx.plan(job(folder | changes))
    with pytest.raises(ConfigError, match="give stage 'ddpm' a class_column"):
        kx.plan(diffusion_job({"guidance": 2}))


def test_batches_take_several_settings_in_turn() -> None:
    write((), table=table_of(range(100)))
    done(diffusion_job({"count": 24, "steps": [2, 3], "eta": [0, 0.5]}, {"name": "alone", "count": 24, "steps": 3}))
    found = rows("out/d")
    settings = list(zip(found["steps"].to_list(), found["eta"].to_list(), strict=True))
    ways = [(2, 0.0), (2, 0.5), (3, 0.0), (3, 0.5)]
    assert settings == [ways[number // 4 % 4] for number in range(24)]
    alone = rows("out/d", "alone")
    assert found[8:12].select("sample_id", "vector").equals(alone[8:12].select("sample_id", "vector"))
    assert not (found[4:8]["vector"].to_numpy() == alone[4:8]["vector"].to_numpy()).any()


def test_ancestral_steps_with_the_small_variance_are_ddim_with_eta_1() -> None:
    write((), table=table_of(range(100)))
    small = {"name": "small", "solver": "ddpm", "steps": 4, "variance": [0, 1]}
    done(diffusion_job({"steps": 4, "eta": 1}, small))
    ddim, ancestral = rows("out/d"), rows("out/d", "small")
    assert ancestral["variance"].to_list() == [float(number // 4 % 2) for number in range(10)]
    assert "eta" not in ancestral.columns
    np.testing.assert_allclose(ancestral["vector"].to_numpy()[:4], ddim["vector"].to_numpy()[:4], rtol=1e-4, atol=1e-4)
    assert not np.allclose(ancestral["vector"].to_numpy()[4:8], ddim["vector"].to_numpy()[4:8], rtol=1e-2)


def test_live_weights_are_those_of_the_optimiser() -> None:
    write((), table=table_of(range(100)))
    training = {"steps": 4, "batch_rows": 32, "validation_share": 0.2, "precision": "fp32", "ema": 0.9}
    done(diffusion_job({"steps": 3}, {"name": "live", "steps": 3, "weights": "live"}, training=training))
    folder = Path("out/d/ddpm/_artifact")
    live = TrainedDiffusion.load(folder, which="live")
    expected = DiffusionGenerator(live, [Sampling(steps=3)], None, 0).generate(range(4)).values
    np.testing.assert_array_equal(rows("out/d", "live")[:4]["vector"].to_numpy(), expected)
    assert not (rows("out/d")["vector"].to_numpy() == rows("out/d", "live")["vector"].to_numpy()).all()
    without = diffusion_job({"weights": "live"})
    with pytest.raises(ConfigError, match="stage 'ddpm' keeps no average"):
        kx.plan(without)


def test_hubs_of_a_diffusion_model_are_what_the_ode_makes_of_them() -> None:
    write((), table=table_of(range(100)))
    latents = {"kinds": ["hubs", "shortest"], "pool": 100, "k": 3, "threshold": 6}
    done(diffusion_job({"count": 16, "steps": 3, "latents": latents}))
    found = rows("out/d")
    assert found["latents"].to_list() == [("hubs", "shortest")[number // 4 % 2] for number in range(16)]
    assert found["k_occurrence"].is_null().to_list() == [kind == "shortest" for kind in found["latents"]]
    model = TrainedDiffusion.load(Path("out/d/ddpm/_artifact"))
    how = Latents("shortest", pool=100, k=3, threshold=6)
    start = draw_latents(how, 0, range(4, 8), 3).values
    times = spaced_times(1000, 3)
    with torch.inference_mode():
        made = sample_from(model.denoiser(None), Ddim(), times, RowNoise(0, range(4, 8)), (3,), start_BD=start)
    np.testing.assert_array_equal(found[4:8]["vector"].to_numpy(), model.to_values(made).astype(np.float32))


def test_chosen_latents_are_the_same_in_any_shard_and_end_the_job_where_there_are_none() -> None:
    vector_model()
    latents = {"kinds": ["hubs", "prior"], "pool": 100, "k": 3, "threshold": 6}
    done(job(sample(count=21, latents=latents)))
    done(job(sample(count=21, latents=latents, shard_rows=5), output="out/other"))
    assert rows().equals(rows("out/other"))
    result = kx.run(job(sample(latents={"pool": 100, "rounds": 2}), output="out/none"), quiet=True, report=False)
    assert result.exit_code not in (0, 4)
    words = result.message + str(result.failures)
    assert "kept 0 of 4 latents in 2 rounds of 100: 0.000% reach k-occurrence >= 50" in words
    assert "the largest k-occurrence seen is" in words


def test_an_input_may_come_later() -> None:
    vector_model()
    done(job(sample()))
    write((), table=table_of(range(100)))
    later = job(sample(), {"kind": "whiten", "input": "input", "column": "v"}) | {"input": {"path": "rows"}}
    assert [stage.rows_out for stage in done(later).stages] == [10, 100]
    assert done(job(sample())).status == "unchanged"
    assert [stage.rows_out for stage in done(later).stages] == [10, 100]


def test_samples_that_are_no_numbers_are_set_aside() -> None:
    vector_model(bias=400.0)
    of = job(sample())
    assert kx.run(of, quiet=True, report=False).exit_code == 4
    of["job"]["quarantine"] = {"max_share": 1.0}
    stage = done(of).stages[0]
    assert (stage.rows_in, stage.rows_out, stage.rows_quarantined) == (10, 0, 10)


def test_a_damaged_cut_is_found_and_named() -> None:
    vector_model()
    done(job(sample()))
    cut = Path("out/s/sample/_kxbatch/cut.json")
    cut.write_text(cut.read_text().replace("8", "7"))
    assert any("cut.json" in defect.file for defect in verify("out/s").defects)
    with pytest.raises(FatalError, match=r"cut\.json"):
        done(job(sample()))
    for ends in ([4, 4, 10], [0, 10], [-4, 10], "4"):
        cut.write_text(sealed({"ends": ends}))
        with pytest.raises(FatalError, match=r"cut\.json: damaged, ends"):
            kx.plan(job(sample()))
    cut.unlink()
    assert done(job(sample())).status == "unchanged"


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        (sample(count=0), "count = 0"),
        ({"kind": "sample", "model": "model"}, "count is missing"),
        (sample(keep=["text"]), "keep: a stage of kind 'sample' makes its rows"),
        (sample(input="input"), "leave input out"),
        (sample(model="nowhere"), "'nowhere' has no model that samples can be drawn from"),
        (
            sample(model="stage:vea"),
            "'stage:vea': no stage of that name before it leaves a density model or a diffusion model",
        ),
        (sample(steps=10), "steps goes with a diffusion model"),
        (sample(classes="b"), "classes goes with a diffusion model"),
        (sample(solver="heun", eta=0.5), "eta goes with solver = 'ddim', not with 'heun'"),
        (sample(latents={"kinds": "hubs"}, eta=0.5), "a solver that adds no noise"),
        (sample(latents={"kinds": "hubs"}, solver="ddpm"), "a solver that adds no noise"),
        (sample(latents={"kinds": "longest"}), "allowed: prior, hubs, shortest"),
        (sample(latents={"k": 10, "pool": 10}), "k = 10: a pool of 10 has fewer neighbours"),
        (sample(latents={"threshold": 5, "quantile": 0.9}), "threshold and quantile: give one of them"),
        (sample(variance=0.5), "variance goes with solver = 'ddpm', not with 'ddim'"),
        (sample(weights="live"), "weights goes with a diffusion model"),
        (sample(steps=[]), "steps"),
        (sample(solver="euler"), "allowed: ddim, ddpm, heun, midpoint"),
    ],
)
def test_what_cannot_be_sampled_is_refused_before_anything_runs(stage: dict[str, Any], words: str) -> None:
    vector_model()
    with pytest.raises(ConfigError, match=words):
        done(job(stage))
    assert not Path("out").exists()


def test_a_model_of_another_kind_is_refused() -> None:
    of = density_job({"kind": "tokenizer", "column": "id"}, sample(model="stage:tokenizer"))
    write((), table=table_of(range(100)))
    with pytest.raises(
        ConfigError, match="no stage of that name before it leaves a density model or a diffusion model"
    ):
        kx.plan(of)


def test_a_seed_that_does_not_fit_is_refused() -> None:
    vector_model()
    result = kx.run(job(sample(), seed=-1), quiet=True, report=False)
    assert (result.exit_code, "job.seed = -1" in result.message) == (2, True)


def test_the_input_is_missed_by_who_reads_it() -> None:
    vector_model()
    with pytest.raises(ConfigError, match="input is missing; it has no default, and stage 'whiten' reads it"):
        kx.plan(job({"kind": "whiten"}, sample()))
    with pytest.raises(ConfigError, match=r"input\.path is missing"):
        kx.plan(job({"kind": "whiten"}, sample()) | {"input": {"id": "id"}})


def test_the_verb_draws_and_stops_there() -> None:
    vector_model()
    stages: list[dict[str, Any]] = [{"kind": "sample", "model": "model", "count": 3}, {"kind": "whiten"}]
    text = '[job]\nname = "s"\noutput = "out/s"\nexecutor = "inline"\n'
    Path("job.toml").write_text(text + "".join(_table(stage) for stage in stages))
    ran = CliRunner().invoke(cli, ["sample", "job.toml", "--json", "-q"])
    assert ran.exit_code == 0, ran.output
    facts = json.loads(ran.stdout)
    assert [stage["name"] for stage in facts["stages"]] == ["sample"]
    assert facts["samples"] == [str(Path("out/s/sample").absolute())]
    assert Path(facts["report"]).exists()
    ran = CliRunner().invoke(cli, ["sample", "job.toml", "-q"])
    assert f"samples: {facts['samples'][0]}" in ran.stdout
    assert "no input" in CliRunner().invoke(cli, ["plan", "job.toml"]).stdout
    Path("other.toml").write_text(text + '[input]\npath = "rows"\n' + _table({"kind": "whiten"}))
    write((), table=table_of(range(10)))
    ran = CliRunner().invoke(cli, ["sample", "other.toml"])
    assert isinstance(ran.exception, ConfigError)
    assert "no stage of this job draws samples" in str(ran.exception)


def _table(stage: dict[str, Any]) -> str:
    return "[[stage]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in stage.items())
