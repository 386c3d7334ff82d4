"""The lists equal brute force in float64, bit for bit, on data made to break first passes, bounds and ties."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kxbatch.kernels import knn
from kxbatch.kernels.jit import jit
from kxbatch.kernels.knn import Metric, Neighbors, knn_cross, knn_graph, knn_pair, search
from kxbatch.kernels.knn.blocks import read_block
from kxbatch.kernels.knn.compiled import FLUSHED, key_below, key_of, new_candidates, value_of
from kxbatch.kernels.knn.crew import crew_of
from kxbatch.kernels.knn.frame import choose_frame
from kxbatch.kernels.knn.order import locality_labels
from kxbatch.kernels.knn.pack import pack

METRICS = get_args(Metric)


def scores_of(x: NDArray[np.float32], y: NDArray[np.float32], metric: str) -> NDArray[np.float64]:
    """All scores in the documented order of operations: 32 interleaved sums, added by halving."""

    def sums(terms: NDArray[np.float64]) -> NDArray[np.float64]:
        padded = np.zeros((*terms.shape[:-1], -(-terms.shape[-1] // 32) * 32))
        padded[..., : terms.shape[-1]] = terms
        lanes = np.zeros((*terms.shape[:-1], 32))
        for start in range(0, padded.shape[-1], 32):
            lanes = lanes + padded[..., start : start + 32]
        while lanes.shape[-1] > 1:
            half = lanes.shape[-1] // 2
            lanes = lanes[..., :half] + lanes[..., half:]
        return lanes[..., 0]

    a, b = x.astype(np.float64), y.astype(np.float64)
    if metric == "euclidean":
        return np.stack([np.sqrt(sums((row - b) * (row - b))) for row in a])
    dots = np.stack([sums(row * b) for row in a])
    if metric == "inner":
        return dots
    return np.asarray(dots * np.multiply.outer(1.0 / np.sqrt(sums(a * a)), 1.0 / np.sqrt(sums(b * b))))


def brute(scores: NDArray[np.float64], k: int, metric: str, *, same: bool) -> Neighbors:
    """The k best of each row by a full sort: score, then index."""
    worst = np.inf if metric == "euclidean" else -np.inf
    n, m = scores.shape
    indices, best = np.full((n, k), -1), np.full((n, k), worst)
    for i in range(n):
        others = np.delete(np.arange(m), i) if same else np.arange(m)
        key = scores[i, others] if metric == "euclidean" else -scores[i, others]
        chosen = others[np.lexsort((others, key))][:k]
        indices[i, : len(chosen)], best[i, : len(chosen)] = chosen, scores[i, chosen]
    return Neighbors(indices, best)


def assert_same(found: Neighbors, expected: Neighbors) -> None:
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(np.signbit(found.scores), np.signbit(expected.scores))  # no -0.0 beside 0.0
    np.testing.assert_array_equal(found.indices, expected.indices)


def gaussian(rng: np.random.Generator, n: int = 500, d: int = 24) -> NDArray[np.float64]:
    return rng.standard_normal((n, d))


def copies(rng: np.random.Generator) -> NDArray[np.float64]:
    x = gaussian(rng)
    x[rng.permutation(500)[:100]] = x[7]
    x[rng.permutation(500)[:60]] = x[rng.permutation(500)[:60]]
    return x


def huge_row(rng: np.random.Generator) -> NDArray[np.float64]:
    x = gaussian(rng)
    x[123] *= 1e6
    return x


def one_direction(rng: np.random.Generator) -> NDArray[np.float64]:
    x: NDArray[np.float64] = gaussian(rng) + 28.0 * np.eye(24)[0]
    cosines = x @ x[0] / np.linalg.norm(x, axis=1) / np.linalg.norm(x[0])
    assert np.median(cosines) > 0.95
    return x


def with_zero_rows(rng: np.random.Generator) -> NDArray[np.float64]:
    x = gaussian(rng)
    x[[3, 4, 400]] = 0.0
    return x


DATA: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "gaussian": gaussian,
    "copies": copies,
    "near copies": lambda rng: 1.0 + 1e-6 * gaussian(rng),
    "near copies in clusters": lambda rng: (
        rng.standard_normal((3, 24))[rng.integers(3, size=500)] + 1e-5 * gaussian(rng)
    ),
    "ties on a grid": lambda rng: rng.integers(1, 4, size=(500, 4)).astype(float),
    "all rows equal": lambda rng: np.ones((300, 5)) * 0.3,
    "one huge row": huge_row,
    "log-normal norms": lambda rng: gaussian(rng) * rng.lognormal(0.0, 2.0, (500, 1)),
    "one direction": one_direction,
    "far from the origin": lambda rng: gaussian(rng) + 1e4,
    "huge values": lambda rng: 1e30 * gaussian(rng),
    "tiny values": lambda rng: 1e-30 * gaussian(rng),
    "denormal values": lambda rng: 1e-41 * gaussian(rng),
    "all ranges": lambda rng: gaussian(rng) * 10.0 ** rng.uniform(-30, 30, (500, 1)),
    "one dimension": lambda rng: gaussian(rng, d=1),
    "odd dimension": lambda rng: gaussian(rng, d=131),
    "both signs": lambda rng: gaussian(rng)[rng.integers(250, size=500)] * rng.choice([-1.0, 1.0], (500, 1)),
}


def cases() -> list[Any]:
    return [pytest.param(name, metric, id=f"{name}-{metric}") for name in DATA for metric in METRICS]


@pytest.fixture(params=["one tile", "many tiles"])
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "many tiles":
        monkeypatch.setattr(search, "TILE", 128)
        monkeypatch.setattr(search, "PART", 192)


@pytest.mark.parametrize(("name", "metric"), cases())
@pytest.mark.usefixtures("tiles")
def test_graph_equals_brute_force(name: str, metric: Metric) -> None:
    x = DATA[name](np.random.default_rng(0)).astype(np.float32)
    expected = brute(scores_of(x, x, metric), 7, metric, same=True)
    for precision in ("bf16", "fp32"):
        assert_same(knn_graph(x, 7, metric=metric, precision=precision), expected)


@pytest.mark.parametrize(("name", "metric"), cases())
@pytest.mark.usefixtures("tiles")
def test_cross_equals_brute_force(name: str, metric: Metric) -> None:
    rng = np.random.default_rng(1)
    x = DATA[name](rng).astype(np.float32)
    queries, corpus = x[:170], x[120:]
    expected = brute(scores_of(queries, corpus, metric), 5, metric, same=False)
    for precision in ("bf16", "fp32"):
        assert_same(knn_cross(queries, corpus, 5, metric=metric, precision=precision, threads=2), expected)


@pytest.mark.parametrize("metric", ["inner", "euclidean"])
def test_zero_vectors_have_products_and_distances(metric: Metric) -> None:
    x = with_zero_rows(np.random.default_rng(0)).astype(np.float32)
    assert_same(knn_graph(x, 7, metric=metric), brute(scores_of(x, x, metric), 7, metric, same=True))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 63, 64, 65, 150, 299, 300, 310])
def test_any_k(metric: Metric, k: int) -> None:
    x = gaussian(np.random.default_rng(2), n=300, d=9).astype(np.float32)
    x[50:90] = x[10]
    expected = brute(scores_of(x, x, metric), k, metric, same=True)
    for precision in ("bf16", "fp32"):
        assert_same(knn_graph(x, k, metric=metric, precision=precision, threads=2), expected)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_rows_are_padded(metric: Metric, n: int) -> None:
    x = gaussian(np.random.default_rng(3), n=n, d=3).astype(np.float32)
    worst = np.inf if metric == "euclidean" else -np.inf
    found = knn_graph(x, 4, metric=metric)
    assert_same(found, brute(scores_of(x, x, metric), 4, metric, same=True))
    assert (found.indices[:, n - 1 :] == -1).all()
    assert (found.scores[:, n - 1 :] == worst).all()


def test_no_rows() -> None:
    some, none = np.ones((3, 2), np.float32), np.empty((0, 2), np.float32)
    assert knn_graph(none, 2).indices.shape == (0, 2)
    assert knn_cross(none, some, 2, metric="inner").indices.shape == (0, 2)
    assert (knn_cross(some, none, 2, metric="inner").indices == -1).all()
    of_some, of_none = knn_pair(some, none, 2, metric="cosine")
    assert (of_some.indices == -1).all()
    assert of_none.indices.shape == (0, 2)


@pytest.mark.parametrize("metric", METRICS)
def test_agrees_with_blas(metric: Metric) -> None:
    """Independent of the order of operations: scores within 1e-12 of a matrix product, swaps only among such ties."""
    x = gaussian(np.random.default_rng(4), n=1500, d=100).astype(np.float32)
    found, v = knn_graph(x, 10, metric=metric), x.astype(np.float64)
    if metric == "cosine":
        v /= np.linalg.norm(v, axis=1, keepdims=True)
    levels = v @ v.T
    if metric == "euclidean":
        levels = -np.sqrt(np.maximum(np.square(v).sum(1)[:, None] + np.square(v).sum(1) - 2 * levels, 0))
    np.fill_diagonal(levels, -np.inf)
    sign = -1.0 if metric == "euclidean" else 1.0
    size = 1e-12 * np.abs(levels[np.isfinite(levels)]).max()
    chosen = np.take_along_axis(levels, found.indices, axis=1)
    np.testing.assert_allclose(sign * found.scores, chosen, atol=size, rtol=0)
    np.testing.assert_allclose(chosen, -np.sort(-levels, axis=1)[:, :10], atol=size, rtol=0)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", ["copies", "ties on a grid", "one direction"])
def test_mean_k_occurrence_is_k(name: str, metric: Metric) -> None:
    x = DATA[name](np.random.default_rng(5)).astype(np.float32)
    found = knn_graph(x, 6, metric=metric, threads=2)
    assert np.bincount(found.indices.ravel(), minlength=len(x)).mean() == 6
    assert not (found.indices == np.arange(len(x))[:, None]).any()
    assert all(len(set(row)) == 6 for row in found.indices)


@pytest.mark.parametrize("metric", METRICS)
def test_masses_of_duplicates_in_several_tiles(metric: Metric) -> None:
    """More copies than a buffer or a tile holds, and near-copies that no first pass can tell apart."""
    rng = np.random.default_rng(6)
    x = gaussian(rng, n=2600, d=8).astype(np.float32)
    x[rng.permutation(2600)[:1300]] = x[0]
    x[rng.permutation(2600)[:600]] = x[1] + 1e-7 * rng.standard_normal((600, 8)).astype(np.float32)
    expected = brute(scores_of(x, x, metric), 10, metric, same=True)
    for precision in ("bf16", "fp32"):
        assert_same(knn_graph(x, 10, metric=metric, precision=precision, threads=2), expected)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_other_types_are_converted_to_float32(dtype: type) -> None:
    x: NDArray[Any] = (10 * gaussian(np.random.default_rng(7), n=120, d=6)).astype(dtype)
    x[(x == 0).all(axis=1)] = 1
    assert_same(knn_graph(x, 3), knn_graph(x.astype(np.float32), 3))


def test_strides_do_not_matter() -> None:
    x = gaussian(np.random.default_rng(8), n=240, d=12).astype(np.float32)
    assert_same(knn_graph(np.asfortranarray(x), 3), knn_graph(x, 3))
    assert_same(knn_graph(x[::2, 1::3], 3), knn_graph(x[::2, 1::3].copy(), 3))


def test_input_is_left_as_it_was() -> None:
    x = gaussian(np.random.default_rng(9), n=100).astype(np.float32)
    before = x.copy()
    knn_graph(x, 3, metric="cosine")
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39])
def test_first_row_that_is_not_finite_is_named(bad: float) -> None:
    x = gaussian(np.random.default_rng(10), n=90)
    x[41, 3], x[77, 0] = bad, np.nan
    with pytest.raises(ValueError, match=r"queries: row 41 .*not finite"):
        knn_cross(x, np.ones((2, 24)), 1, metric="inner")


def test_first_zero_vector_is_named_under_the_cosine() -> None:
    x = with_zero_rows(np.random.default_rng(11))
    with pytest.raises(ValueError, match="row 3 is a zero vector"):
        knn_graph(x, 2, metric="cosine")


def test_misuse_is_refused() -> None:
    x = np.ones((4, 3), np.float32)
    wrong: Any = "cosin"
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        knn_graph(x, 2, metric=wrong)
    with pytest.raises(ValueError, match="at least 1"):
        knn_graph(x, 0)
    with pytest.raises(ValueError, match="precision 'fp16'"):
        knn_graph(x, 1, precision="fp16")  # type: ignore[arg-type]  # that is the point
    with pytest.raises(ValueError, match=r"shape \[n, d\]"):
        knn_graph(x[0], 1)
    with pytest.raises(ValueError, match="same dimension"):
        knn_cross(x, x[:, :2], 1, metric="inner")
    with pytest.raises(ValueError, match="floor_a: need one number a row"):
        knn_pair(x, x, 1, metric="inner", floor_a=np.zeros(3))


def test_thread_counts_are_put_back() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        knn_graph(np.eye(5, dtype=np.float32), 2, threads=3)
        assert torch.get_num_threads() == 2
        with pytest.raises(ValueError, match="dimension"):
            knn_cross(np.ones((2, 2)), np.ones((2, 3)), 1, metric="inner")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize(("name", "metric"), cases())
def test_first_pass_bounds_every_score(name: str, metric: Metric, precision: str) -> None:
    """The certificate itself: what a tile says of a pair lies around the level of the float64 score."""
    x, half = DATA[name](np.random.default_rng(12)).astype(np.float32), precision == "bf16"
    blocks = (read_block(x, metric, "x"),)
    frame = choose_frame(blocks, 5, metric)
    with crew_of(1) as crew:
        packed = pack(blocks, frame, locality_labels(blocks, frame, half, crew), half, crew)
    state = new_candidates(5, len(x), packed.allowance, half)
    seen = torch.mm(packed.left, packed.right.t()).double().numpy()
    e, s, t, d, a = packed.allowance.astype(np.float64).T
    gap = 2.00001 * (np.outer(e, s) + np.outer(t, e) + np.outer(d, a) + np.outer(a, d)) + FLUSHED
    real = packed.rows.identity >= 0
    rows = x[blocks[0].groups.first[packed.rows.identity[real]]]
    scores = scores_of(rows, rows, metric)
    level = frame.factor * (-0.5 * scores**2 if metric == "euclidean" else scores) - frame.shift
    slack = np.abs(seen) * state.rounding
    assert (level <= (seen + slack + FLUSHED)[np.ix_(real, real)]).all()
    assert (level >= (seen - slack - gap)[np.ix_(real, real)]).all()
    lowest = value_of(state.floor[0], state.flip, state.drop)
    assert (seen[np.ix_(real, ~real)] < lowest).all()
    assert (seen[np.ix_(~real, real)] < lowest).all()
    assert (level > lowest).all()


@settings(deadline=None, derandomize=True)
@given(level=st.floats(-(2.0**60), 2.0**60), half=st.booleans())
def test_what_reaches_a_level_reaches_its_key(level: float, half: bool) -> None:
    state = new_candidates(1, 1, np.zeros((64, 5), np.float32), half)
    key = key_below(level, state.drop)
    above = torch.nextafter(torch.tensor(level, dtype=torch.float64), torch.tensor(torch.inf, dtype=torch.float64))
    for value in (torch.tensor(level, dtype=torch.float64), above):
        rounded = value.float().bfloat16() if half else value.float()
        bits = rounded.view(torch.int16 if half else torch.int32).item()
        assert key_of(state.flip.dtype.type(bits), state.flip) >= key
    least = float(value_of(key, state.flip, state.drop))
    assert least <= level + abs(level) * (2.0**-8 if half else 2.0**-24)
    assert least >= level - abs(level) * (2.0**-7 if half else 2.0**-23) - 2 * FLUSHED


def test_read_only_rows() -> None:
    x = gaussian(np.random.default_rng(13), n=80).astype(np.float32)
    expected = knn_graph(x, 3)
    x.setflags(write=False)
    assert_same(knn_graph(x, 3), expected)


def test_compiled_functions_call_none_of_other_files() -> None:
    """A cache notices changes of a function's own file only; calls into another file would run stale code."""
    for info in pkgutil.iter_modules(knn.__path__, f"{knn.__name__}."):
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            function = getattr(value, "py_func", None)
            if function is None or function.__module__ != info.name:
                continue
            for used in function.__code__.co_names:
                called = getattr(function.__globals__.get(used), "py_func", None)
                assert called is None or called.__module__ == info.name, f"{info.name}.{name} calls {used}"


def test_functions_compile_where_nothing_can_be_cached() -> None:
    """Code without a source file has no place for a cache, like a read-only installation."""
    space: dict[str, Any] = {}
    exec("def twice(x):\n    return 2 * x", space)
    assert jit(space["twice"])(21) == 42
