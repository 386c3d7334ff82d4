from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save
from sklearn.decomposition import PCA

from kxbatch.kernels.hub_measures import k_occurrence, measures
from kxbatch.kernels.knn import knn_graph
from kxbatch.kernels.moments import BLOCK, fold, merge_tree
from kxbatch.kernels.whitening import (
    Transform,
    apply,
    cosine_error,
    decompose,
    fit,
    normalize,
    spectrum,
)

Array = NDArray[Any]


def embeddings(n: int = 4_000, d: int = 16, seed: int = 0, offset: float = 1.0) -> Array:
    """Anisotropic rows with an offset mean and eigenvalues over two orders of magnitude."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    rows = (rng.standard_normal((n, d)) * np.logspace(0, -1, d)) @ rotation
    return np.asarray(rows + offset * rng.standard_normal(d))


def cosines(x: Array) -> Array:
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(unit @ unit.T)


def test_full_whitening_has_mean_zero_and_unit_covariance() -> None:
    x = embeddings()
    y = apply(fit(fold(x)), x, dtype=np.float64)
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-6)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(16), atol=1e-6)


def test_float32_whitening_is_good_to_float32() -> None:
    x = embeddings().astype(np.float32)
    y = apply(fit(fold(x)), x).astype(np.float64)
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.cov(y, rowvar=False, bias=True), np.eye(16), atol=1e-4)


def test_no_centring_and_no_scaling_keeps_every_cosine() -> None:
    x = embeddings(500)
    y = apply(fit(fold(x), beta=0.0, gamma=0.0), x, dtype=np.float64)
    np.testing.assert_allclose(cosines(y), cosines(x), atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_second_moment_about_the_shift_becomes_a_power_of_the_eigenvalues(beta: float, gamma: float) -> None:
    """`E[y^T y] = diag(lambda ** (1 - gamma))`, from the definition of the transform."""
    x = embeddings()
    t = fit(fold(x), beta, gamma)
    y = apply(t, x, dtype=np.float64)
    np.testing.assert_allclose(y.T @ y / len(y), np.diag(t.eigenvalues ** (1.0 - gamma)), atol=1e-10)


@settings(max_examples=25, deadline=None)
@given(beta=st.floats(0, 1), gamma=st.floats(0, 1), k=st.integers(1, 15), seed=st.integers(0, 1_000))
def test_truncation_is_nested(beta: float, gamma: float, k: int, seed: int) -> None:
    m = fold(embeddings(200, seed=seed))
    np.testing.assert_array_equal(fit(m, beta, gamma, k).projection, fit(m, beta, gamma).projection[:, :k])


@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(0, 4_000), max_size=6), seed=st.integers(0, 1_000))
def test_any_split_and_order_of_shards_give_the_same_transform(cuts: list[int], seed: int) -> None:
    x = embeddings()
    whole = fit(fold(x), 1.0, 1.0)
    parts = [fold(x[a:b]) for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 4_000], strict=True)]
    shuffled = [parts[i] for i in np.random.default_rng(seed).permutation(len(parts))]
    for merged in (merge_tree(parts), merge_tree(shuffled)):
        split = fit(merged, 1.0, 1.0)
        np.testing.assert_allclose(split.projection, whole.projection, atol=1e-10)
        np.testing.assert_allclose(split.mean, whole.mean, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mean_of_a_million_still_whitens(dtype: Any) -> None:
    x = (np.random.default_rng(5).standard_normal((20_000, 12)) + 1e6).astype(dtype)
    y = apply(fit(fold(x)), x, dtype=dtype).astype(np.float64)
    tolerance = 1e-6 if dtype == np.float64 else 1e-5
    np.testing.assert_allclose(y.mean(axis=0), 0.0, atol=tolerance)
    np.testing.assert_allclose(y.T @ y / len(y), np.eye(12), atol=tolerance)


def test_equals_the_whitening_of_scikit_learn_up_to_sign() -> None:
    """scikit-learn divides by `n - 1`, so its output is shorter by `sqrt((n - 1) / n)`."""
    x = embeddings()
    ours = apply(fit(fold(x)), x, dtype=np.float64) * np.sqrt((len(x) - 1) / len(x))
    theirs = PCA(whiten=True, svd_solver="full").fit_transform(x)
    signs = np.sign((ours * theirs).sum(axis=0))
    np.testing.assert_allclose(ours * signs, theirs, atol=1e-8)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["few rows", "repeated columns", "dependent column"])
def test_rank_deficient_data_are_not_blown_up(kind: str, dtype: Any, gamma: float) -> None:
    x = embeddings(5_000, 24)
    rank = 24
    if kind == "few rows":
        x, rank = x[:10], 9
    if kind == "repeated columns":
        x[:, 12:], rank = x[:, :12], 12
    if kind == "dependent column":
        x[:, -1], rank = x[:, :-1].sum(axis=1), 23
    x = x.astype(dtype)
    t = fit(fold(x), 1.0, gamma)
    assert (t.rank, t.dim) == (rank, rank)
    largest = np.linalg.norm(x - x.mean(axis=0), axis=1).max()
    probe = largest * np.random.default_rng(1).standard_normal((50, 24))  # not in the span of the data
    scale = t.eigenvalues[rank - 1] ** (-gamma / 2)
    bound = scale * np.linalg.norm(probe - x.mean(axis=0), axis=1).max() * 1.001
    assert float(np.abs(apply(t, probe, dtype=np.float64)).max()) <= bound
    y = apply(t, x, dtype=np.float64)
    np.testing.assert_allclose(
        y.T @ y / len(y), np.diag(t.eigenvalues[:rank] ** (1 - gamma)), atol=1e-3 if dtype == np.float32 else 1e-9
    )
    with pytest.raises(ValueError, match=f"dim = 24.*rank {rank}.*1 to {rank}"):
        fit(fold(x), 1.0, gamma, dim=24)


def test_signs_are_fixed() -> None:
    vectors = decompose(fold(embeddings()), 1.0).eigenvectors
    largest = np.abs(vectors).argmax(axis=0)
    assert (vectors[largest, range(16)] > 0).all()
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(16), atol=1e-12)


def test_apply_does_not_depend_on_the_block_of_a_row() -> None:
    """To float32 rounding: BLAS may add in another order for a block of another height."""
    x = embeddings(BLOCK + 100).astype(np.float32)
    t = fit(fold(x), dim=5)
    y = apply(t, x)
    assert y.dtype == np.float32
    assert y.shape == (BLOCK + 100, 5)
    np.testing.assert_allclose(apply(t, x[BLOCK - 3 :]), y[BLOCK - 3 :], atol=1e-5)
    assert apply(t, x[:0]).shape == (0, 5)


def test_half_precision_output_and_its_cosine_error() -> None:
    x = embeddings(3_000)
    t = fit(fold(x))
    wide, narrow = apply(t, x, dtype=np.float64), apply(t, x, dtype=np.float16)
    assert narrow.dtype == np.float16
    chosen = np.linspace(0, 2_999, 300).round().astype(int)
    difference = np.abs(cosines(wide[chosen]) - cosines(narrow[chosen].astype(np.float64)))
    difference = difference[np.triu_indices(300, 1)]
    error = cosine_error(wide, narrow, sample=300)
    assert error.max == pytest.approx(difference.max(), rel=1e-9)
    assert error.mean == pytest.approx(difference.mean(), rel=1e-9)
    assert 0.0 < error.mean < error.max < 2**-10  # rounding of float16 is 2^-11 an entry


def test_overflow_of_half_precision_is_refused() -> None:
    x = embeddings() * 1e6
    with pytest.raises(ValueError, match="float16"):
        apply(fit(fold(x), gamma=0.0), x, dtype=np.float16)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 1e-3), (np.float32, 1e-6), (np.float64, 1e-14)])
def test_normalize_makes_unit_rows_and_leaves_zeros(dtype: Any, tolerance: float) -> None:
    x = embeddings(100).astype(dtype)
    x[7] = 0.0
    x[8] = 1e-12 if dtype != np.float16 else 0.0
    y = normalize(x)
    assert y.dtype == dtype
    norms = np.linalg.norm(np.delete(y, [7, 8], axis=0).astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, 1.0, atol=tolerance)
    assert not y[7].any()
    np.testing.assert_allclose(y[8].astype(np.float64), x[8].astype(np.float64) / 1e-8, rtol=1e-6)


def test_spectrum_is_json_and_adds_up() -> None:
    x = embeddings()
    t = fit(fold(x), dim=4)
    facts = spectrum(t)
    eigenvalues = np.array(facts["eigenvalues"])
    assert (facts["n"], facts["dim"], facts["rank"]) == (4_000, 4, 16)
    np.testing.assert_allclose(facts["explained_share"], np.cumsum(eigenvalues) / eigenvalues.sum())
    share = eigenvalues / eigenvalues.sum()
    assert facts["effective_rank"] == pytest.approx(np.prod(share**-share))  # exp of the entropy
    assert all(type(value) in (int, float, list) for value in facts.values())


def test_effective_rank_of_even_and_of_one_sided_data() -> None:
    signs = np.array([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    assert fit(fold(signs)).effective_rank == pytest.approx(3.0)
    assert fit(fold(signs[:2])).effective_rank == pytest.approx(1.0)


def test_arrays_round_trip() -> None:
    t = fit(fold(embeddings()), 0.5, 0.25, 3)
    back = Transform.from_arrays(load(save(t.to_arrays())))
    for name, value in t.to_arrays().items():
        assert value.tobytes() == back.to_arrays()[name].tobytes()
    assert vars(back).keys() == vars(t).keys()


def test_misuse_is_refused_in_words() -> None:
    m = fold(embeddings(50))
    with pytest.raises(ValueError, match="beta must lie"):
        fit(m, beta=1.5)
    with pytest.raises(ValueError, match="gamma must lie"):
        fit(m, gamma=-0.1)
    with pytest.raises(ValueError, match="dim = 0"):
        fit(m, dim=0)
    with pytest.raises(ValueError, match="dim = 17"):
        fit(m, dim=17)
    with pytest.raises(ValueError, match=r"nothing to whiten: 1 row"):
        fit(fold(np.ones((1, 3))))
    with pytest.raises(ValueError, match=r"width 16.*\[2, 3\]"):
        apply(fit(m), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="int32"):
        apply(fit(m), np.zeros((2, 16)), dtype=np.int32)
    with pytest.raises(ValueError, match="two or more rows"):
        cosine_error(np.zeros((2, 3)), np.zeros((3, 3)))


def test_gamma_not_beta_removes_hubness() -> None:
    """Anisotropic rows with an offset mean, cosine, k = 10: centring alone makes hubs worse, whitening ends them."""
    rng = np.random.default_rng(0)
    d = 256
    x = (rng.standard_normal((3_000, d)) * np.arange(1, d + 1) ** -0.5 + 0.3 * rng.standard_normal(d)).astype(
        np.float32
    )
    m = fold(x)
    skewness: dict[tuple[float, float], Any] = {}
    for beta, gamma in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0)):
        graph = knn_graph(apply(fit(m, beta, gamma), x), 10, metric="cosine")
        skewness[beta, gamma] = measures(k_occurrence(graph.indices, len(x)), 10)["skewness"]
    assert skewness[0.0, 0.0] > 1.5
    assert skewness[1.0, 0.0] > skewness[0.0, 0.0]
    assert skewness[1.0, 1.0] < 0.5
