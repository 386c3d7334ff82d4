"""One suite, both executors: a job runs, resumes, grows, and says what it did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from support import audit_job, tree_digests, write_texts

import kxbatch as kx
from kxbatch.data.vectors import to_numpy
from kxbatch.engine.result import RunResult
from kxbatch.errors import ConfigError

pytestmark = pytest.mark.usefixtures("corpus")


@pytest.fixture(params=["inline", "ray"])
def executor(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return str(request.param)


def run(job: dict[str, Any], **kwargs: Any) -> RunResult:
    return kx.run(job, quiet=True, report=False, **kwargs)


def fresh(result: RunResult) -> dict[str, list[str]]:
    """Stage -> parts that this run made."""
    return {s.name: [u["key"] for u in s.units if not u["reused"]] for s in result.stages}


def test_main_job_end_to_end(executor: str, workplace: Path) -> None:
    result = run(audit_job(executor))
    assert (result.exit_code, result.status, result.failures) == (0, "done", [])
    frame = kx.open("out/audit").scan().collect()
    assert frame.height == 120
    assert frame["id"].to_list() == [f"d{row:04d}" for row in range(120)]
    assert {"embedding", "whitened", "neighbor_ids", "k_occurrence", "hubness.k_occurrence"} <= set(frame.columns)
    assert frame["k_occurrence"].sum() == 120 * 3
    facts = json.loads((workplace / "out/audit/hubness/_artifact/hubness.json").read_text())
    assert facts["raw"]["n"] == 120
    assert sum(facts["raw"]["histogram"]["rows"]) == 120
    record = json.loads((workplace / "out/audit/run.json").read_text())
    assert [s["rows_out"] for s in record["stages"]] == [120] * 4


def test_lists_equal_brute_force(executor: str, workplace: Path) -> None:
    run(audit_job(executor))
    frame = kx.open("out/audit").scan().collect()
    x = to_numpy(frame.to_arrow().column("whitened"), "whitened").astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    cosine = x @ x.T
    np.fill_diagonal(cosine, -np.inf)
    best = np.sort(cosine, axis=1)[:, ::-1][:, :3]
    scores = np.array(frame["hubness.neighbor_scores"].to_list())
    np.testing.assert_allclose(scores, best, atol=1e-6)
    row_of = {name: row for row, name in enumerate(frame["id"])}
    for row, names in enumerate(frame["hubness.neighbor_ids"]):
        np.testing.assert_allclose(cosine[row, [row_of[name] for name in names]], best[row], atol=1e-6)


def test_second_run_has_nothing_to_do(executor: str, workplace: Path) -> None:
    run(audit_job(executor))
    before = {p: p.stat().st_mtime_ns for p in (workplace / "out/audit").rglob("part-*")}
    result = run(audit_job(executor))
    assert (result.exit_code, result.status) == (0, "unchanged")
    assert {p: p.stat().st_mtime_ns for p in (workplace / "out/audit").rglob("part-*")} == before


def test_both_executors_write_the_same_bytes(ray_session: None, workplace: Path) -> None:
    run(audit_job("inline"))
    one = tree_digests(workplace / "out/audit")
    run(audit_job("ray") | {"job": {"name": "audit", "output": "out/other", "executor": "ray"}})
    assert tree_digests(workplace / "out/other") == one
    assert len(one) > 20


def test_a_new_file_costs_what_is_new(executor: str, workplace: Path) -> None:
    run(audit_job(executor))
    parts = set(fresh(run(audit_job(executor) | {"job": {"name": "audit", "output": "out/x"}}))["embed"])
    pairs = set((workplace / "out/audit/before/_kxbatch/receipts/pairs").iterdir())
    stamps = {p: p.stat().st_mtime_ns for p in pairs}
    write_texts(workplace / "data/texts-3.jsonl", 120, 10)
    result = run(audit_job(executor))
    assert result.exit_code == 0
    new = fresh(result)
    assert new["embed"]
    assert not set(new["embed"]) & parts
    assert new["whiten"] == new["embed"], "the transform is pinned: old rows keep it"
    after = set((workplace / "out/audit/before/_kxbatch/receipts/pairs").iterdir())
    assert len(after) > len(pairs)
    assert {p: p.stat().st_mtime_ns for p in pairs} == stamps, "no old pair of blocks is computed again"
    frame = kx.open("out/audit").scan().collect()
    assert frame.height == 130
    assert frame["k_occurrence"].sum() == 130 * 3


def test_growing_gives_the_lists_of_a_run_over_everything(executor: str, workplace: Path) -> None:
    run(audit_job(executor))
    write_texts(workplace / "data/texts-3.jsonl", 120, 25)
    run(audit_job(executor))
    grown = kx.open("out/audit").scan(["embed", "before"]).collect()
    run(audit_job(executor) | {"job": {"name": "audit", "output": "out/whole", "executor": executor}})
    whole = kx.open("out/whole").scan(["embed", "before"]).collect()
    assert grown.equals(whole)


def test_changed_configuration_redoes_what_depends_on_it(executor: str, workplace: Path) -> None:
    run(audit_job(executor))
    result = run(audit_job(executor, whiten={"beta": 0.5}))
    new = fresh(result)
    assert new["embed"] == []
    assert new["before"] == []
    assert len(new["whiten"]) == len(new["hubness"]) > 0
    phases = json.loads((workplace / "out/audit/progress.json").read_text())["phases"]
    folds = [p for p in phases if p["stage"] == "whiten" and p["phase"] == "fold"]
    assert folds[0]["rows"] == 0, "another beta is fitted from stored moments"


def test_plan_says_what_and_why_and_changes_nothing(workplace: Path) -> None:
    plan = kx.plan(audit_job())
    assert not (workplace / "out").exists()
    assert plan.rows == 120
    assert plan.to_do > 0
    run(audit_job())
    assert kx.plan(audit_job()).to_do == 0
    changed = kx.plan(audit_job(embed={"prompt": "query: "}))
    embed = next(p for p in changed.phases if p.stage == "embed")
    assert embed.stale == embed.total
    assert any("prompt" in reason and "query: " in reason for reason in embed.reasons)
    waiting = next(p for p in changed.phases if p.stage == "whiten" and p.phase == "map")
    assert "waits for embed" in waiting.reasons


def test_plan_of_a_grown_corpus_names_only_what_is_new(workplace: Path) -> None:
    run(audit_job())
    write_texts(workplace / "data/texts-3.jsonl", 120, 10)
    phases = {(p.stage, p.phase): p for p in kx.plan(audit_job()).phases}
    old = phases["embed", "map"].done
    assert phases["embed", "map"].pending == phases["whiten", "fold"].pending == phases["whiten", "map"].pending == 1
    assert phases["whiten", "map"].done == old
    assert phases["before", "pairs"].done > 0
    assert phases["before", "pairs"].stale == 0
    result = run(audit_job())
    assert len(fresh(result)["whiten"]) == 1
    assert kx.plan(audit_job()).to_do == 0


def test_limit_is_a_trial_and_the_rest_follows(executor: str, workplace: Path) -> None:
    result = run(audit_job(executor), limit=30)
    assert result.exit_code == 0
    assert result.stages[0].rows_out == 30
    run(audit_job(executor))
    run(audit_job(executor) | {"job": {"name": "audit", "output": "out/whole", "executor": executor}})
    assert tree_digests(workplace / "out/audit") == tree_digests(workplace / "out/whole")


def test_parts_are_plain_parquet_with_lineage_in_the_footer(workplace: Path) -> None:
    run(audit_job())
    path = next((workplace / "out/audit/whiten").glob("part-*.parquet"))
    schema = pq.read_schema(path)
    assert str(schema.field("whitened").type) == "fixed_size_list<element: float not null>[8]"
    assert not schema.field("whitened").nullable
    assert not schema.field("id").nullable
    footer = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert footer["kxbatch.stage"] == "whiten"
    assert footer["kxbatch.upstream"] == "embed"
    assert footer["kxbatch.inputs"].startswith("embed/part-")
    assert pl.read_parquet(path).height > 0


def test_a_removed_file_keeps_or_drops_its_rows(workplace: Path) -> None:
    run(audit_job())
    (workplace / "data/texts-1.jsonl").unlink()
    kept = run(audit_job())
    assert (kept.exit_code, kept.stages[0].rows_out) == (0, 120)
    assert any("texts-1.jsonl is gone" in warning for warning in kept.warnings)
    job = audit_job()
    job["input"]["removed"] = "drop"
    dropped = run(job)
    assert (dropped.exit_code, dropped.stages[0].rows_out) == (0, 80)
    frame = kx.open("out/audit").scan().collect()
    assert frame.height == 80
    assert frame["k_occurrence"].sum() == 80 * 3


def test_a_changed_file_is_done_again(workplace: Path) -> None:
    run(audit_job())
    write_texts(workplace / "data/texts-1.jsonl", 500, 55)
    result = run(audit_job())
    assert result.exit_code == 0
    run(audit_job() | {"job": {"name": "audit", "output": "out/whole", "executor": "inline"}})
    ids = set(kx.open("out/audit").scan().collect()["id"])
    assert ids == set(kx.open("out/whole").scan().collect()["id"])
    assert "d0045" not in ids


def test_an_output_belongs_to_one_job(workplace: Path) -> None:
    run(audit_job())
    job = audit_job()
    job["job"]["name"] = "another"
    with pytest.raises(ConfigError, match="belongs to the job 'audit'"):
        run(job)
    (workplace / "elsewhere").mkdir()
    (workplace / "elsewhere/thesis.tex").write_text("x")
    job["job"]["output"] = "elsewhere"
    with pytest.raises(ConfigError, match="not an output of kxbatch"):
        run(job)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("whiten/_artifact/transform.safetensors", lambda data: data[:-1] + bytes([data[-1] ^ 1])),
        ("whiten/_artifact/state.safetensors", lambda data: data[: len(data) // 2]),
        ("embed/_kxbatch/receipts/map/part-00001.json", lambda data: data[: len(data) // 2]),
        ("embed/part-00002.parquet", lambda data: data[: len(data) // 2]),
        ("embed/part-77777.parquet", lambda data: b"nobody vouches for me"),
    ],
)
def test_a_run_mends_what_it_can_see(file: str, damage: Any, workplace: Path) -> None:
    run(audit_job())
    before = tree_digests(workplace / "out/audit")
    path = workplace / "out/audit" / file
    path.write_bytes(damage(path.read_bytes() if path.exists() else b""))
    assert run(audit_job()).exit_code == 0
    assert tree_digests(workplace / "out/audit") == before
