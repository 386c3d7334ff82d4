from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import ndtr
from scipy.stats import skew

from kxbatch.kernels.hub_centroids import accumulate_centroids, center, local_spread
from kxbatch.kernels.hub_measures import k_occurrence
from kxbatch.kernels.hub_methods import METRICS, check_reduction
from kxbatch.kernels.hub_reductions import (
    higher_is_better,
    rescore,
    row_statistics,
)

Array = NDArray[Any]
K = 5
METHODS = [m for m in METRICS if m not in ("none", "centering")]
CASES = [(method, metric) for method in METHODS for metric in METRICS[method]]


def points(kind: str, n: int = 120, d: int = 6) -> Array:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)) + 0.3
    if kind == "duplicates":
        x[20:90] = x[rng.integers(0, 20, 70)]
        x[90:100] = x[0]  # more copies than K: scales of zero
    return x


def unit(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=1, keepdims=True))


def pair_scores(x: Array, metric: str) -> Array:
    """All scores, rounded so that equal pairs are exactly equal wherever they stand."""
    if metric == "euclidean":
        scores = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=2))
    else:
        scores = unit(x) @ unit(x).T if metric == "cosine" else x @ x.T
    return np.asarray(np.round(scores, 12))


def candidates(scores: Array, width: int, metric: str) -> tuple[Array, Array]:
    """The best `width` other rows of every row, ties by the smaller row."""
    key = scores.copy() if metric == "euclidean" else -scores
    np.fill_diagonal(key, np.inf)
    indices = np.argsort(key, axis=1, kind="stable")[:, :width]
    return indices, np.take_along_axis(scores, indices, axis=1)


def statistics(method: str, metric: str, x: Array, indices: Array, scores: Array) -> Array:
    if method != "dissimlocal":
        return row_statistics(method, metric, indices, scores, K)
    vectors = unit(x) if metric == "cosine" else x
    sums = np.zeros(x.shape)
    for start in range(0, len(x), 50):
        accumulate_centroids(sums, indices[:, :K], vectors[start : start + 50], start)
    return local_spread(vectors, sums, indices[:, :K])


def reduce(method: str, metric: str, x: Array, width: int, k: int) -> tuple[Array, Array]:
    indices, scores = candidates(pair_scores(x, metric), width, metric)
    stats = statistics(method, metric, x, indices, scores)
    rows = np.arange(len(x))
    return rescore(method, metric, rows, indices, scores, stats, k, all_indices=indices, all_scores=scores)


def naive(method: str, metric: str, x: Array) -> Array:
    """The whole matrix of new scores, from the definitions, pair by pair."""
    s = pair_scores(x, metric)
    n = len(x)
    d = {"cosine": np.maximum(1 - s, 0), "euclidean": s, "inner": -s}[metric]
    others = [np.delete(np.arange(n), i) for i in range(n)]
    nearest = [o[np.argsort(d[i, o], kind="stable")][:K] for i, o in enumerate(others)]
    out = np.zeros((n, n))
    v = unit(x) if metric == "cosine" else x
    spread = [((v[i] - v[nearest[i]].mean(axis=0)) ** 2).sum() for i in range(n)]
    for i in range(n):
        for j in others[i]:
            if method == "csls":
                out[i, j] = 2 * s[i, j] - s[i, nearest[i]].mean() - s[j, nearest[j]].mean()
            elif method == "localized-centering":
                local = v[j] @ v[nearest[j]].mean(axis=0)
                out[i, j] = s[i, j] - local
            elif method == "local-scaling":
                scale = d[i, nearest[i][-1]] * d[j, nearest[j][-1]]
                exponent = d[i, j] ** 2 / scale if scale > 0 else (0 if d[i, j] == 0 else np.inf)
                out[i, j] = 1 - np.exp(-exponent)
            elif method == "nicdm":
                scale = d[i, nearest[i]].mean() * d[j, nearest[j]].mean()
                out[i, j] = d[i, j] / np.sqrt(scale) if scale > 0 else (0 if d[i, j] == 0 else np.inf)
            elif method == "dissimlocal":
                squared = 2 - 2 * s[i, j] if metric == "cosine" else s[i, j] ** 2
                out[i, j] = squared - spread[i] - spread[j]
            elif method == "mutual-proximity":
                p, q = (ndtr((d[a, others[a]].mean() - d[i, j]) / d[a, others[a]].std()) for a in (i, j))
                out[i, j] = 1 - p * q
            else:
                both = (d[i] > d[i, j]) & (d[j] > d[i, j])
                both[[i, j]] = False
                out[i, j] = 1 - both.sum() / (n - 1)
    return out


@pytest.mark.parametrize("kind", ["random", "duplicates"])
@pytest.mark.parametrize(("method", "metric"), CASES)
def test_whole_corpus_as_candidates_equals_the_naive_method(method: str, metric: str, kind: str) -> None:
    x = points(kind)
    expected = naive(method, metric, x)
    indices, scores = reduce(method, metric, x, len(x) - 1, K)
    sign = -1.0 if higher_is_better(method, metric) else 1.0
    assert indices.shape == scores.shape == (len(x), K)
    for i in range(len(x)):
        of_ours, key = expected[i, indices[i]], sign * scores[i]
        finite = np.isfinite(of_ours)
        np.testing.assert_allclose(scores[i, finite], of_ours[finite], rtol=1e-9, atol=1e-10)
        # What a scale of zero makes infinite comes last, in the order of the distances.
        assert (scores[i, ~finite] > 1e100).all()
        assert (np.diff(key) >= 0).all()
        ties = np.diff(key) == 0
        assert (np.diff(indices[i])[ties] > 0).all()
        left_out = np.delete(sign * expected[i], [i, *indices[i]])
        assert left_out.min() >= (sign * of_ours).max() - 1e-10 or not finite.all()
    if kind == "random" and method != "mutual-proximity-empirical":  # no ties: the lists themselves are equal
        np.fill_diagonal(expected, sign * np.inf * 1.0)
        np.testing.assert_array_equal(indices, np.argsort(sign * expected, axis=1, kind="stable")[:, :K])


@settings(max_examples=30, deadline=None)
@given(
    case=st.sampled_from(CASES),
    kind=st.sampled_from(["random", "duplicates"]),
    cuts=st.lists(st.integers(0, 120), max_size=5),
    width=st.sampled_from([K, 23, 119]),
)
def test_blocks_give_the_bits_of_the_whole(case: tuple[str, str], kind: str, cuts: list[int], width: int) -> None:
    method, metric = case
    x = points(kind)
    indices, scores = candidates(pair_scores(x, metric), width, metric)
    whole = reduce(method, metric, x, width, K)
    blocks = [range(a, b) for a, b in zip([0, *sorted(cuts)], [*sorted(cuts), 120], strict=True)]
    if method == "dissimlocal":
        stats = statistics(method, metric, x, indices, scores)
    else:
        stats = np.concatenate([row_statistics(method, metric, indices[b], scores[b], K) for b in blocks])
    lists = {"all_indices": indices, "all_scores": scores}
    parts = [rescore(method, metric, np.array(b, dtype=int), indices[b], scores[b], stats, K, **lists) for b in blocks]
    for ours, expected in zip(map(np.concatenate, zip(*parts, strict=True)), whole, strict=True):
        assert ours.tobytes() == expected.tobytes()


@pytest.mark.parametrize(("method", "metric"), CASES)
def test_statistics_may_be_memory_maps(method: str, metric: str, tmp_path: Path) -> None:
    x = points("random")
    indices, scores = candidates(pair_scores(x, metric), 20, metric)
    stats = statistics(method, metric, x, indices, scores)
    maps = []
    for name, array in (("stats", stats), ("indices", indices), ("scores", scores)):
        np.save(tmp_path / f"{name}.npy", array)
        # An empty array (mutual-proximity-empirical keeps no statistics) cannot be mapped.
        maps.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r" if array.size else None))
    found = rescore(
        method, metric, np.arange(120), maps[1], maps[2], maps[0], K, all_indices=maps[1], all_scores=maps[2]
    )
    for ours, expected in zip(found, reduce(method, metric, x, 20, K), strict=True):
        np.testing.assert_array_equal(ours, expected)


@pytest.mark.parametrize(("method", "metric"), CASES)
@pytest.mark.parametrize("n", [1, 2, 4])
def test_padding_stays_at_the_end(method: str, metric: str, n: int) -> None:
    """A corpus with fewer than w other rows: the lists are padded, and the padding changes nothing."""
    x = points("random", n=n)
    short, short_scores = candidates(pair_scores(x, metric), n - 1, metric)
    indices, scores = np.full((n, 8), -1), np.full((n, 8), np.inf if metric == "euclidean" else -np.inf)
    indices[:, : n - 1], scores[:, : n - 1] = short, short_scores
    stats = statistics(method, metric, x, indices, scores)
    assert np.isfinite(stats).all()
    found, new = rescore(
        method, metric, np.arange(n), indices, scores, stats, 6, all_indices=indices, all_scores=scores
    )
    assert (found[:, n - 1 :] == -1).all()
    assert (new[:, n - 1 :] == (-np.inf if higher_is_better(method, metric) else np.inf)).all()
    np.testing.assert_array_equal(np.sort(found[:, : n - 1]), np.sort(short))
    assert np.isfinite(new[:, : n - 1]).all()


def test_empirical_proximity_of_short_lists_takes_unlisted_rows_as_far() -> None:
    x = points("random")
    s = pair_scores(x, "euclidean")
    indices, scores = candidates(s, 15, "euclidean")
    found, new = reduce("mutual-proximity-empirical", "euclidean", x, 15, 15)
    for i in range(len(x)):
        for j, score in zip(found[i], new[i], strict=True):
            listed = dict(zip(indices[j], scores[j], strict=True))
            last = scores[j].max()
            both = 0
            for z in indices[i]:
                of_y = s[j, z] > s[i, j] if z in listed else last >= s[i, j]
                both += bool(z != j and s[i, z] > s[i, j] and of_y)
            assert score == pytest.approx(1 - both / 15, abs=1e-12)


@pytest.mark.parametrize(("method", "metric"), CASES)
def test_hubness_falls(method: str, metric: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((600, 60))
    if metric != "euclidean":
        x = x * np.linspace(0.2, 1, 60) + 0.5
    plain, _ = candidates(pair_scores(x, metric), 10, metric)
    reduced, _ = reduce(method, metric, x, 100, 10)
    before, after = (float(skew(k_occurrence(z, 600))) for z in (plain, reduced))
    assert before > 1.5
    assert after < 0.85 * before


def test_centering_removes_hubs_of_similarity() -> None:
    x = np.random.default_rng(1).standard_normal((600, 60)) * np.linspace(0.2, 1, 60) + 0.5
    centred = center(x, x.mean(axis=0))
    np.testing.assert_allclose(centred.mean(axis=0), 0.0, atol=1e-12)
    before, after = (
        float(skew(k_occurrence(candidates(pair_scores(z, "inner"), 10, "inner")[0], 600))) for z in (x, centred)
    )
    assert after < 0.7 * before
    assert center(x.astype(np.float32), x.mean(axis=0)).dtype == np.float32


def test_centroids_do_not_depend_on_the_blocks_of_rows() -> None:
    x = points("duplicates")
    indices, _ = candidates(pair_scores(x, "euclidean"), K, "euclidean")
    expected = x[indices].mean(axis=1)
    whole = np.zeros(x.shape)
    accumulate_centroids(whole, indices, x, 0)
    np.testing.assert_allclose(whole / K, expected, atol=1e-12)
    for start in range(0, 120, 7):
        part = np.zeros((len(indices[start : start + 7]), x.shape[1]))
        accumulate_centroids(part, indices[start : start + 7], x, 0)
        assert part.tobytes() == whole[start : start + 7].tobytes()
    shards = np.zeros(x.shape)
    for start in range(0, 120, 33):
        accumulate_centroids(shards, indices, x[start : start + 33], start)
    np.testing.assert_allclose(shards, whole, atol=1e-12)


def test_misuse_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="did you mean 'csls'"):
        check_reduction("cssl", "cosine")
    with pytest.raises(ValueError, match="did you mean 'cosine'"):
        check_reduction("csls", "cosin")
    for method, metric in [
        ("csls", "euclidean"),
        ("centering", "euclidean"),
        ("nicdm", "inner"),
        ("local-scaling", "inner"),
        ("dissimlocal", "inner"),
    ]:
        with pytest.raises(ValueError, match=f"'{method}' is defined for .*, not for {metric}"):
            check_reduction(method, metric)
    indices, scores = candidates(pair_scores(points("random"), "cosine"), 9, "cosine")
    with pytest.raises(ValueError, match="k = 10"):
        row_statistics("csls", "cosine", indices, scores, 10)
    with pytest.raises(ValueError, match="no statistics"):
        row_statistics("dissimlocal", "cosine", indices, scores, 5)
    with pytest.raises(ValueError, match="does not rescore"):
        rescore("centering", "cosine", np.arange(120), indices, scores, np.zeros((120, 1)), 5)
    with pytest.raises(ValueError, match="lists of all rows"):
        rescore("mutual-proximity-empirical", "cosine", np.arange(120), indices, scores, np.zeros((120, 0)), 5)
    assert higher_is_better("none", "cosine")
    assert not higher_is_better("none", "euclidean")
