"""Whitening through the engine: pinned, refreshed, refitted, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import multivariate_normal

import kxbatch as kx
from kxbatch.data.vectors import to_arrow, to_numpy
from kxbatch.engine.result import RunResult

pytestmark = pytest.mark.usefixtures("workplace")
MIX = np.random.default_rng(1).normal(size=(6, 6))


def write(name: str, rows: int, *, seed: int, shift: float = 0.0) -> np.ndarray[Any, Any]:
    Path("vectors").mkdir(exist_ok=True)
    x = (np.random.default_rng(seed).normal(size=(rows, 6)) @ MIX + 5 + shift).astype(np.float32)
    pq.write_table(pa.table({"vec": to_arrow(x)}), f"vectors/{name}.parquet", row_group_size=100)
    return x


def run(**whiten: Any) -> RunResult:
    job = {
        "job": {"name": "w", "output": "out/w", "executor": "inline"},
        "input": {"path": "vectors/*.parquet", "shard_size": "3kB"},
        "stage": [{"kind": "whiten", **whiten}],
    }
    result = kx.run(job, quiet=True, report=False)
    assert result.exit_code == 0, result.message
    return result


def column(name: str) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = kx.open("out/w").scan().collect()[name].to_numpy()
    return found


def whitened() -> np.ndarray[Any, Any]:
    frame = kx.open("out/w").scan().collect()
    return to_numpy(frame.to_arrow().column("whitened"), "whitened").astype(np.float64)


def document(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path("out/w/whiten/_artifact", name).read_text())
    return found


def test_the_output_has_mean_zero_and_covariance_one() -> None:
    write("a", 1000, seed=0)
    run()
    y = whitened()
    np.testing.assert_allclose(y.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(y.T, bias=True), np.eye(6), atol=1e-5)
    spectrum = document("spectrum.json")
    assert (spectrum["n"], spectrum["dim"], spectrum["drift"]) == (1000, 6, None)
    assert spectrum["explained_share"][-1] == pytest.approx(1)


def test_later_rows_use_the_pinned_transform_and_drift_is_told() -> None:
    write("a", 1000, seed=0)
    run()
    first, card = whitened(), document("card.json")
    x = write("b", 300, seed=1, shift=3)
    result = run()
    assert document("card.json")["digest"] == card["digest"]
    y = whitened()
    np.testing.assert_array_equal(y[:1000], first)
    assert y[1000:].mean() != pytest.approx(0, abs=0.1), "shifted rows stay shifted under the old transform"
    drift = document("spectrum.json")["drift"]
    assert (drift["rows_pinned"], drift["rows_now"]) == (1000, 1300)
    assert drift["score"] > 0
    assert "artifact kept as fitted on 1000 rows" in result.stages[0].note
    assert len(x) == 300


@pytest.mark.parametrize(
    ("policy", "shift", "refits"), [("always", 0.0, True), ("on-drift", 9.0, True), ("on-drift", 0.0, False)]
)
def test_refit_policies(policy: str, shift: float, refits: bool) -> None:
    write("a", 1000, seed=0)
    run(refit=policy)
    digest = document("card.json")["digest"]
    write("b", 500, seed=1, shift=shift)
    result = run(refit=policy)
    assert (document("card.json")["digest"] != digest) == refits
    made = [unit["reused"] for unit in result.stages[0].units]
    assert any(made) != refits, "a new fit makes every part stale, an old one none"
    if refits:
        np.testing.assert_allclose(np.cov(whitened().T, bias=True), np.eye(6), atol=1e-4)


def test_hyperparameters_are_fitted_from_stored_moments() -> None:
    x = write("a", 800, seed=0).astype(np.float64)
    run()
    run(beta=0.5, gamma=0.25, dim=3)
    mu, second = x.mean(axis=0), x.T @ x / len(x)
    sigma = second - (2 * 0.5 - 0.25) * np.outer(mu, mu)
    values, vectors = np.linalg.eigh(sigma)
    values, vectors = values[::-1], vectors[:, ::-1]
    vectors *= np.sign(vectors[np.abs(vectors).argmax(axis=0), range(6)])
    expected = (x - 0.5 * mu) @ vectors[:, :3] * values[:3] ** -0.125
    np.testing.assert_allclose(whitened(), expected, rtol=1e-4, atol=1e-4)


def test_gaussian_columns_equal_scipy() -> None:
    x = write("a", 500, seed=0).astype(np.float64)
    run(log_density=True, mahalanobis=True)
    mean, cov = x.mean(axis=0), np.cov(x.T, bias=True)
    np.testing.assert_allclose(column("log_density"), multivariate_normal(mean, cov).logpdf(x), rtol=1e-4)
    d = x - mean
    expected = np.sqrt(np.einsum("ij,jk,ik->i", d, np.linalg.inv(cov), d))
    np.testing.assert_allclose(column("mahalanobis"), expected, rtol=1e-3)


def test_float16_output() -> None:
    write("a", 500, seed=0)
    run(dtype="float16")
    assert "halffloat" in str(pq.read_schema(next(Path("out/w/whiten").glob("part-*"))).field("whitened").type)
    np.testing.assert_allclose(np.cov(whitened().T, bias=True), np.eye(6), atol=5e-3)
