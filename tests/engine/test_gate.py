"""The gate of a stage: what stops a job with exit status 4, how long, and what it is compared with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner
from density_jobs import calibration, done, fresh, gaussian, held, job, parts, run, stamps, table_of, write

import kxbatch as kx
from kxbatch.cli import cli
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.run import RunResult
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
    before = judged()
    result = run(of, **kwargs)
    assert (result.exit_code, result.status) == (4, "stopped"), result.message
    for word in ("stage density: ", "Its parts are kept, stages after it did not run", *words):
        assert word in result.message
    assert [stage.name for stage in result.stages] == ["density"]
    assert judged() == before, "what was found bad is not remembered"
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


def test_the_mean_of_a_second_file_must_not_move_too_far() -> None:
    write(calm(range(150)))
    done(gated(drift=0.5))
    before = parts()["log_density"]
    write(calm(range(200, 240)), "b", shift=3)
    result = stopped(
        gated(drift=0.5), "the mean log-density of 39 new rows lies", "below that of the rows before", "0.5 of these"
    )
    new = parts()[144:]["log_density"]
    moved = before.mean() - new.mean()
    assert f"{moved:.4g} nats below" in result.message
    assert f"standard deviation is {before.std(ddof=0):.4g}" in result.message
    stopped(gated(drift=0.5), f"{moved:.4g} nats below")
    done(gated(drift=moved / before.std(ddof=0) * 1.01))
    write(calm(range(300, 340)), "c")  # as the first ones; those before have become more varied
    done(gated(drift=0.7))


@pytest.mark.parametrize("refit", ["on-drift", "always"])
def test_a_new_fit_opens_no_gate(refit: str) -> None:
    """The rows before are scored by the new fit, too, so new ones can be compared with them."""
    write(calm(range(150)))
    done(gated(drift=0.5, refit=refit))
    write(calm(range(200, 260)), "b", shift=4)
    notes = []
    for _ in range(2):
        result = stopped(gated(drift=0.5, refit=refit), "of 58 new rows", "below that of the rows before")
        frame = parts()
        moved = frame[:144]["log_density"].mean() - frame[144:]["log_density"].mean()
        assert f"{moved:.4g} nats below" in result.message
        notes.append(result.stages[0].note)
    assert "artifact fitted" in notes[0]


def test_densities_from_neighbours_have_a_gate() -> None:
    write(calm(range(150)))
    hubness = {"kind": "hubness", "input": "input", "metric": "euclidean", "column": "v", "k": 3}
    density = {"kind": "density", "estimator": "knn", "model": "stage:hubness", "gate": {"max_mean_drift": 0.5}}
    done(job(hubness, density))
    write(range(200, 240), "b", table=far_apart(40))
    result = run(job(hubness, density))
    assert result.exit_code == 4
    assert "of 40 new rows" in result.message


def far_apart(count: int) -> pa.Table:
    """Rows that are nobody's neighbours."""
    x = (np.random.default_rng(0).normal(size=(count, 3)) * 500 + 5000).astype(np.float32)
    return table_of(range(500, 500 + count)).set_column(1, "v", to_arrow(x))


def test_only_new_rows_are_judged() -> None:
    write(range(150))
    done(gated(0.9))
    write(range(200, 215), "b", shift=20)
    stopped(gated(0.5), "of 15 new rows")
    write(range(220, 300), "c")  # good ones come, the bad ones stay bad
    stopped(gated(0.1), "of 95 new rows")
    done(gated(0.1), overrides=["density.gate.max_share_below_percentile=0.5"])
    write(range(300, 380), "d")
    done(gated(0.3))
    found = judged()
    assert found is not None
    assert found["totals"]["rows_scored"] == 325


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


def test_rows_are_judged_when_all_are_there() -> None:
    write(range(150))
    done(gated(0.9))
    write(range(200, 230), "b", shift=20)
    data = Path("rows/b.parquet").read_bytes()
    Path("rows/c.parquet").write_bytes(data[: len(data) // 2])
    result = run(gated(0.1))
    assert (result.exit_code, result.status) == (3, "incomplete")
    Path("rows/c.parquet").unlink()
    assert run(gated(0.1)).exit_code == 4


def test_another_score_or_fit_is_judged_from_the_beginning() -> None:
    write(range(150))
    done(gated(0.9, 5))
    changed = gated(0.9, 5, score="typicality")
    changed["stage"][0]["gate"]["max_share_below_percentile"] = 0.0
    stopped(changed, "of 150 new rows")


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
    before, new = rng.normal(-90, 3, 500), rng.normal(-92, 3, 200)
    sums = [counted(rows, np.full(len(rows), 50.0)) for rows in (before, new)]
    moved = (before.mean() - new.mean()) / before.std()
    assert mean_moved(sums[1], sums[0], moved * 1.000001) == []
    (words,) = mean_moved(sums[1], sums[0], moved * 0.999999)
    assert f"{before.mean() - new.mean():.4g} nats below" in words
    assert mean_moved(sums[1], {}, 0.01) == mean_moved({}, sums[0], 0.01) == []


def test_a_gate_without_anything_to_compare_with_stays_shut() -> None:
    write(n for n in range(60) if not held([f"r{n:05d}"])[0])
    stopped(gated(0.5), "gate.max_share_below_percentile cannot be judged: no row calibrates")
    done(gated(drift=0.5))
