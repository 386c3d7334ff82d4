"""The gate of a stage: what stops a job with exit status 4, how long, and what it is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from density_jobs import calibration, done, fresh, gaussian, held, iwae, job, parts, run, stamps, table_of, vae, write

import kxbatch as kx
from kxbatch.cli import cli
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.result import RunResult
from kxbatch.engine.verify import verify
from kxbatch.stages.density_gate import counted, mean_moved

pytestmark = pytest.mark.usefixtures("workplace")
AFTER = {"kind": "density", "name": "after", "estimator": "gaussian", "columns": "log_density"}


def gated(
    low: float | None = None, drift: float | None = None, *, percentile: float = 10, **changes: Any
) -> dict[str, Any]:
    """A gate before another stage."""
    gate = {"percentile": percentile} | ({} if low is None else {"max_share_below_percentile": low})
    gate |= {} if drift is None else {"max_mean_drift": drift}
    density = gaussian(gate=gate, fit_on="normal", refit="never") | changes
    return job(density, AFTER)


def judged() -> dict[str, Any] | None:
    path = Path("out/d/density/_kxbatch/judged.json")
    return json.loads(path.read_text()) if path.exists() else None


def stopped(of: dict[str, Any], *words: str, **kwargs: Any) -> RunResult:
    result = run(of, **kwargs)
    assert (result.exit_code, result.status) == (4, "stopped"), result.message
    for word in ("stage density: ", "Its parts are kept, stages after it did not run", *words):
        assert word in result.message
    assert [stage.name for stage in result.stages] == ["density"]
    found = judged()
    assert found is not None
    assert found["bad"]
    assert not set(found["shards"]) & set(found["bad"])
    return result


def calm(numbers: range) -> list[int]:
    """Without the odd ones, whose densities are so low that no mean is far from another."""
    return [n for n in numbers if n % 25 != 24]


def share_below(percentile: float, first: int = 0) -> float:
    frame = parts()[first:]
    return float((frame["density_percentile"] < percentile).mean())


def test_too_many_low_rows_stop_the_job_again_and_again_until_the_limit_is_raised() -> None:
    write(range(150))
    result = stopped(
        gated(0.02), "new rows lie below the calibration rows' percentile 10", "max_share_below_percentile is 2"
    )
    low = share_below(10)
    assert f"{low:.3%} of 150 new rows" in result.message
    assert "--set density.gate." in result.message
    assert not Path("out/d/after").exists()
    kept = stamps("out/d/density")
    again = stopped(gated(0.02), f"{low:.3%} of 150 new rows")
    assert fresh(again)["density"] == []
    assert {p: at for p, at in stamps("out/d/density").items() if p.name.startswith("part-")} == {
        p: at for p, at in kept.items() if p.name.startswith("part-")
    }
    record = json.loads(Path("out/d/run.json").read_text())
    assert record["exit_code"] == 4
    result = done(gated(0.02), overrides=["density.gate.max_share_below_percentile=0.9"])
    assert fresh(result)["density"] == []
    assert fresh(result)["after"]
    assert done(gated(0.02)).exit_code == 0, "rows that once passed are not judged again"
    assert verify("out/d").defects == []


def test_a_share_of_exactly_the_limit_passes() -> None:
    write(range(150))
    done(job(gaussian(fit_on="normal")))
    low = share_below(10)
    Path("out/d/density/_kxbatch/judged.json").unlink()
    stopped(gated(low - 1e-9))
    done(gated(low))


@pytest.mark.parametrize("percentile", [0.1, 1, 5, 10])
def test_every_percentile_that_is_allowed_is_counted(percentile: float) -> None:
    write(range(150))
    stopped(gated(0, percentile=percentile), f"percentile {percentile:g},")
    assert share_below(percentile) > 0.03, "the odd ones"


def shifts(densities: Any) -> Any:
    """Distances from the median of the calibration rows in their robust standard deviations, at most 10."""
    middle = np.median(calibration())
    return np.clip((densities - middle) / (1.4826 * np.median(np.abs(calibration() - middle))), -10, 10)


def test_the_mean_of_a_second_file_must_not_move_too_far() -> None:
    write(calm(range(150)))
    done(gated(drift=0.5))
    write(calm(range(200, 240)), "b", shift=3)
    result = stopped(
        gated(drift=0.5),
        "the mean log-density of 39 new rows lies",
        "below that of the rows before",
        "max_mean_drift is 0.5",
    )
    found = shifts(parts()["log_density"].to_numpy())
    moved = found[:144].mean() - found[144:].mean()
    assert f"{moved:.4g} standard deviations below" in result.message
    done(gated(drift=moved * 1.01))


def test_one_extreme_row_neither_blinds_the_gate_nor_closes_it() -> None:
    table = table_of(calm(range(150)))
    far = table_of([900]).set_column(1, "v", to_arrow(np.full((1, 3), 1e30, np.float32)))
    write((), table=pa.concat_tables([table, far.set_column(4, "normal", pa.array([False]))]))
    done(gated(drift=0.5))
    write(calm(range(300, 340)), "b")
    done(gated(drift=0.5))
    write(calm(range(400, 440)), "c", shift=4)
    stopped(gated(drift=0.5), "below that of the rows before")


def test_rows_without_any_density_count_as_low() -> None:
    write(calm(range(150)))
    model = vae(fit_on="normal")
    scored = iwae(gate={"max_share_below_percentile": 0.5, "percentile": 10}, fit_on="normal")
    done(job(model, scored))
    rows = table_of(range(900, 915)).set_column(1, "v", to_arrow(np.full((15, 3), 3e38, np.float32)))
    write((), "b", table=rows.set_column(4, "normal", pa.array([False] * 15)))
    result = run(job(model, scored))
    assert result.exit_code == 4
    assert "100.000% of 15 new rows" in result.message


def test_only_new_rows_are_judged_and_good_ones_do_not_water_down_bad_ones() -> None:
    write(range(150))
    done(gated(0.9))
    write(range(200, 215), "b", shift=20)
    stopped(gated(0.5), "of 15 new rows")
    write(range(220, 300), "c")  # good ones come, the bad ones stay bad
    result = stopped(gated(0.5), "of 15 new rows")
    assert "of 80 new rows" not in result.message
    done(gated(0.5), overrides=["density.gate.max_share_below_percentile=1.0"])
    write(range(300, 380), "d")
    done(gated(0.5))
    found = judged()
    assert found is not None
    assert found["totals"]["rows_scored"] == 325
    assert found["bad"] == {}


def test_bad_rows_that_are_taken_away_again_stop_nothing() -> None:
    write(range(150))
    done(gated(0.5))
    write(range(200, 215), "b", shift=20)
    stopped(gated(0.5))
    Path("rows/b.parquet").unlink()
    of = gated(0.5)
    of["input"]["removed"] = "drop"
    done(of)
    assert parts().height == 150


def test_a_corpus_that_was_replaced_is_compared_with_the_one_before() -> None:
    write(calm(range(150)))
    of = gated(drift=0.5)
    of["input"]["removed"] = "drop"
    done(of)
    pinned = calibration()
    Path("rows/a.parquet").unlink()
    write(calm(range(500, 560)), "b", shift=4)
    stopped(of, "of 58 new rows", "of the rows before")
    assert (calibration() == pinned).all()
    Path("rows/b.parquet").unlink()
    write(calm(range(600, 700)), "c")
    done(of)


def test_a_trial_is_not_judged() -> None:
    write(range(150))
    assert done(gated(0.0), limit=60).stages[0].rows_out == 60
    assert judged() is None
    assert Path("out/d/after").exists()
    result = run(gated(0.0))
    assert result.exit_code == 4
    assert "of 150 new rows" in result.message


def test_a_broken_file_opens_no_gate() -> None:
    write(range(150))
    done(gated(0.9))
    write(range(200, 230), "b", shift=20)
    data = Path("rows/b.parquet").read_bytes()
    Path("rows/c.parquet").write_bytes(data[: len(data) // 2])
    stopped(gated(0.5), "of 30 new rows")
    Path("rows/c.parquet").unlink()
    stopped(gated(0.5), "of 30 new rows")


def test_another_score_or_fit_is_judged_from_the_beginning() -> None:
    write(range(150))
    done(gated(0.9, 5))
    changed = gated(0.9, 5, score="typicality")
    changed["stage"][0]["gate"]["max_share_below_percentile"] = 0.0
    result = run(changed)
    assert result.exit_code == 4
    assert "of 150 new rows" in result.message


def test_a_gate_is_no_reason_to_do_anything_again() -> None:
    write(range(100))
    done(job(gaussian()))
    assert kx.plan(job(gaussian(gate={"max_mean_drift": 1.0, "percentile": 5}))).to_do == 0
    assert done(job(gaussian(gate={"max_mean_drift": 1.0}))).status == "unchanged"


def test_the_exit_status_of_the_command() -> None:
    write(range(150))
    of = gated()
    lines = []
    for name, table in (
        ("[job]", of["job"]),
        ("[input]", of["input"]),
        *(("[[stage]]", stage) for stage in of["stage"]),
    ):
        told = {k: v for k, v in table.items() if not isinstance(v, dict)}
        lines += [name, *(f"{k} = {json.dumps(v)}" for k, v in told.items())]
    Path("job.toml").write_text("\n".join(lines))
    words = ["run", "job.toml", "--quiet", "--no-report"]
    budget = ["--set", "job.quarantine.max_share=1.0"]
    limit = "density.gate.max_share_below_percentile"
    found = CliRunner().invoke(cli, [*words, *budget, "--set", f"{limit}=0.0001"])
    assert found.exit_code == 4, found.output
    assert "new rows lie below" in found.output
    found = CliRunner().invoke(cli, [*words, *budget, "--set", f"{limit}=0.5"])
    assert found.exit_code == 0, found.output


def test_sums_tell_the_move_of_the_mean() -> None:
    rng = np.random.default_rng(0)
    calibrating, before, new = rng.normal(-90, 3, 900), rng.normal(-90, 3, 500), rng.normal(-92, 3, 200)
    sums = [counted(rows, np.full(len(rows), 50.0), calibrating, 0) for rows in (before, new)]
    deviation = 1.4826 * np.median(np.abs(calibrating - np.median(calibrating)))
    moved = (before.mean() - new.mean()) / deviation
    assert mean_moved(sums[1], sums[0], moved * 1.000001) == []
    (words,) = mean_moved(sums[1], sums[0], moved * 0.999999)
    assert f"{moved:.4g} standard deviations below" in words
    assert mean_moved(sums[1], {}, 0.01) == mean_moved({}, sums[0], 0.01) == []


def test_a_gate_without_anything_to_compare_with_stays_shut() -> None:
    write(n for n in range(60) if not held([f"r{n:05d}"])[0])
    stopped(gated(0.5), "gate.max_share_below_percentile cannot be judged: no row calibrates")
    done(gated(drift=0.5))
