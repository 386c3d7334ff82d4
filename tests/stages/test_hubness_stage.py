"""The hubness stage through the engine: every reduction, every metric, any blocks, and the approximate search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import skew

import kxbatch as kx
from kxbatch.data.vectors import to_arrow
from kxbatch.kernels.hub_methods import METRICS
from kxbatch.kernels.hub_reductions import rescore, row_statistics
from kxbatch.kernels.knn import knn_cross, knn_graph
from kxbatch.stages.hubness import Reduction

pytestmark = pytest.mark.usefixtures("workplace")
N, K = 240, 5


def hubby(rows: int = N) -> npt.NDArray[np.float32]:
    """Vectors with hubs: high-dimensional, off centre, with duplicates."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 40)).astype(np.float32) * np.linspace(2, 0.2, 40, dtype=np.float32) + 0.7
    x[10:14] = x[9]
    return x


def audit(x: npt.NDArray[np.float32], output: str = "out/h", **stage: Any) -> tuple[pl.DataFrame, dict[str, Any]]:
    Path("vectors").mkdir(exist_ok=True)
    pq.write_table(pa.table({"vec": to_arrow(x)}), "vectors/v.parquet", row_group_size=30)
    job = {
        "job": {"name": "h", "output": output, "executor": "inline", "quarantine": {"max_share": 1}},
        "input": {"path": "vectors/*.parquet", "shard_size": "10kB"},
        "stage": [{"kind": "hubness", "k": K, **stage}],
    }
    result = kx.run(job, quiet=True, report=False)
    assert result.exit_code == 0, result.message
    facts = json.loads(Path(output, "hubness/_artifact/hubness.json").read_text())
    return kx.open(output).scan().collect(), facts


def rows_of(frame: pl.DataFrame) -> npt.NDArray[np.int64]:
    """Neighbour row numbers, from ids such as `v.parquet#17`."""
    return np.array([[int(name.split("#")[1]) for name in names] for names in frame["neighbor_ids"]])


@pytest.mark.parametrize("reduction", [r for r in get_args(Reduction) if r not in ("none", "centering", "dissimlocal")])
def test_reductions_equal_one_pass_over_the_whole(reduction: str) -> None:
    x = hubby()
    metric: Any = METRICS[reduction][0]
    frame, facts = audit(x, reduction=reduction, metric=metric, candidates=30, block_rows=70)
    near = knn_graph(x, 30, metric=metric)
    stats = row_statistics(reduction, metric, near.indices, near.scores, K)
    everyone = {"all_indices": near.indices, "all_scores": near.scores} if "empirical" in reduction else {}
    indices, _ = rescore(reduction, metric, np.arange(N), near.indices, near.scores, stats, K, **everyone)
    np.testing.assert_array_equal(rows_of(frame), indices)
    counts = np.bincount(indices.ravel(), minlength=N)
    np.testing.assert_array_equal(frame["k_occurrence"].to_numpy(), counts)
    assert facts["reduced"]["skewness"] == pytest.approx(skew(counts))
    assert facts["raw"]["skewness"] == pytest.approx(skew(np.bincount(near.indices[:, :K].ravel(), minlength=N)))


def test_dissimlocal_equals_its_definition() -> None:
    x = hubby().astype(np.float64)
    frame, _ = audit(hubby(), reduction="dissimlocal", metric="euclidean", candidates=N - 1, block_rows=70)
    d2 = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    np.fill_diagonal(d2, np.inf)
    near = np.lexsort((np.broadcast_to(np.arange(N), (N, N)), d2), axis=1)[:, :K]
    spread = ((x - x[near].mean(axis=1)) ** 2).sum(axis=1)
    score = d2 - spread[:, None] - spread[None]
    best = np.sort(score, axis=1)[:, :K]
    np.testing.assert_allclose(np.take_along_axis(score, rows_of(frame), axis=1), best, atol=1e-4)


def test_centering_searches_among_centred_vectors() -> None:
    x = hubby()
    frame, facts = audit(x, reduction="centering", block_rows=70)
    centred = (x - x.mean(axis=0, dtype=np.float64)).astype(np.float32)
    np.testing.assert_array_equal(rows_of(frame), knn_graph(centred, K, metric="cosine").indices)
    assert abs(facts["mean_cosine"]) < 0.02, "nothing points to the mean any more"


@pytest.mark.parametrize("metric", ["cosine", "inner", "euclidean"])
def test_blocks_change_nothing(metric: str) -> None:
    frames = [audit(hubby(), f"out/{rows}", metric=metric, block_rows=rows) for rows in (30, 100, 10_000)]
    for frame, facts in frames[1:]:
        assert frame.equals(frames[0][0])
        assert facts == frames[0][1]


def test_measures_hubs_and_antihubs_agree_with_the_rows() -> None:
    frame, facts = audit(hubby())
    counts = frame["k_occurrence"].to_numpy()
    assert counts.sum() == N * K
    raw = facts["raw"]
    assert (raw["n"], raw["k"], raw["max_k_occurrence"]) == (N, K, counts.max())
    assert raw["antihub_share"] == pytest.approx((counts == 0).mean())
    assert raw["hub_share"] == pytest.approx(frame["is_hub"].mean())
    np.testing.assert_array_equal(frame["is_hub"].to_numpy(), counts >= 2 * K)
    np.testing.assert_array_equal(frame["is_antihub"].to_numpy(), counts == 0)
    top = pl.read_parquet("out/h/hubness/_artifact/top_hubs.parquet")
    assert top["k_occurrence"].to_list() == sorted(counts.tolist(), reverse=True)[: top.height]
    assert frame["id"][int(counts.argmax())] == top["id"][0]
    u = hubby().astype(np.float64)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    pairs = (u @ u.T)[np.triu_indices(N, 1)]
    assert facts["mean_cosine"] == pytest.approx(pairs.mean(), abs=1e-6)


def test_a_planted_hub_is_the_top_hub() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 60)).astype(np.float32)
    x[123] = np.delete(x, 123, axis=0).mean(axis=0)
    audit(x, metric="euclidean")
    top = pl.read_parquet("out/h/hubness/_artifact/top_hubs.parquet")
    assert top["id"][0] == "v.parquet#123"


@pytest.mark.slow
def test_approximate_search_tells_its_recall() -> None:
    x = hubby(1500)
    frame, facts = audit(x, ann="pynndescent", ann_above=1000)
    exact = knn_graph(x, K, metric="cosine").indices
    hits = np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(rows_of(frame), exact, strict=True)])
    assert facts["recall"] == pytest.approx(hits, abs=0.02)
    assert facts["recall"] > 0.9
    below, facts = audit(x, "out/exact", ann="pynndescent", ann_above=2000)
    assert facts["recall"] is None
    np.testing.assert_array_equal(rows_of(below), exact)


def test_queries_ask_and_the_others_are_found() -> None:
    x = hubby()
    asks = np.arange(N) % 3 == 0
    Path("vectors").mkdir()
    table = pa.table({"vec": to_arrow(x), "is_query": asks})
    pq.write_table(table, "vectors/v.parquet", row_group_size=30)
    job = {
        "job": {"name": "h", "output": "out/h", "executor": "inline"},
        "input": {"path": "vectors/*.parquet", "shard_size": "10kB"},
        "stage": [{"kind": "hubness", "k": K, "queries": "is_query", "keep": ["is_query"], "block_rows": 70}],
    }
    result = kx.run(job, quiet=True, report=False)
    assert result.exit_code == 0, result.message
    frame = kx.open("out/h").scan().collect()
    corpus = np.flatnonzero(~asks)
    near = knn_cross(x[asks], x[~asks], K, metric="cosine")
    np.testing.assert_array_equal(rows_of(frame.filter("is_query")), corpus[near.indices])
    counts = frame["k_occurrence"].to_numpy()
    assert np.isnan(counts[asks]).all()
    np.testing.assert_array_equal(counts[~asks], np.bincount(near.indices.ravel(), minlength=len(corpus)))
    facts = json.loads(Path("out/h/hubness/_artifact/hubness.json").read_text())["raw"]
    assert facts["n"] == len(corpus)
    assert facts["skewness"] == pytest.approx(skew(counts[~asks]))
    assert all(name is None for name in frame.filter(~pl.col("is_query"))["neighbor_ids"][0])
