"""Chosen latents: hubs of their pool by an independent count, the shortest at equal acceptance, and batches apart."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from kxbatch.errors import FatalError
from kxbatch.kernels.diffusion import START, RowNoise
from kxbatch.models.latents import Latents, draw_latents

HUBS = Latents("hubs", pool=400, k=4, threshold=20, rounds=50)
WIDTH = 30


def test_hubs_are_in_as_many_lists_as_they_say() -> None:
    found = draw_latents(HUBS, 5, range(64, 80), WIDTH)
    pool = np.random.default_rng([5, 64, 0]).standard_normal((400, WIDTH), dtype=np.float32)
    distances = cdist(pool.astype(np.float64), pool.astype(np.float64))
    np.fill_diagonal(distances, np.inf)
    counts = np.bincount(np.argsort(distances, axis=1)[:, :4].ravel(), minlength=400)
    hubs = np.flatnonzero(counts >= 20)
    assert 0 < len(hubs) < 400
    first = min(len(hubs), 16)
    np.testing.assert_array_equal(found.values.numpy()[:first], pool[hubs][:first])
    np.testing.assert_array_equal(found.columns["k_occurrence"][:first], counts[hubs][:first])
    assert (found.columns["k_occurrence"] >= 20).all()
    assert set(found.columns["latents"]) == {"hubs"}


def test_the_shortest_are_as_many_of_the_same_pools() -> None:
    hubs = draw_latents(HUBS, 5, range(16), WIDTH)
    short = draw_latents(Latents("shortest", pool=400, k=4, threshold=20, rounds=50), 5, range(16), WIDTH)
    acceptance = float(hubs.columns["acceptance"][0])
    assert short.columns["acceptance"][0] == hubs.columns["acceptance"][0]
    assert 0 < acceptance < 0.2
    pool = np.random.default_rng([5, 0, 0]).standard_normal((400, WIDTH), dtype=np.float32)
    norms = np.linalg.norm(pool.astype(np.float64), axis=1)
    kept = round(acceptance * 400)
    expected = pool[norms <= np.sort(norms)[kept - 1]]
    np.testing.assert_array_equal(short.values.numpy()[: min(kept, 16)], expected[:16])
    assert (short.columns["k_occurrence"] == -1).all()


def test_latents_of_the_prior_are_the_noise_of_their_samples() -> None:
    found = draw_latents(Latents(), 5, range(4, 8), WIDTH)
    np.testing.assert_array_equal(found.values, RowNoise(5, range(4, 8)).draw(START, (WIDTH,)))
    assert (found.columns["acceptance"] == 1).all()


def test_batches_draw_pools_of_their_own() -> None:
    first, second, again = (draw_latents(HUBS, 5, range(at, at + 8), WIDTH).values for at in (0, 8, 0))
    np.testing.assert_array_equal(first, again)
    assert not np.isin(first.numpy()[:, 0], second.numpy()[:, 0]).any()


def test_few_dimensions_have_no_hubs_and_the_error_says_how_far_it_is() -> None:
    with pytest.raises(
        FatalError, match=r"kept 0 of 8 latents in 3 rounds of 400: 0.000% reach .* largest k-occurrence seen is \d+"
    ):
        draw_latents(Latents("hubs", pool=400, rounds=3), 0, range(8), 2)
