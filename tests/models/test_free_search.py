"""Search without a trie against one over all sequences there are."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from toy_generator import ToyGenerator
from trie_oracle import Row, built, keys_of, listed

from kxbatch.models.retrieval.free_search import free_search
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import SearchSettings

SEP, VOCABULARY, LONGEST = 1, 3, 6
QUESTIONS: list[Row] = [(2,), (0, 2, 0), (), (0, 0)]


def every_sequence() -> list[Row]:
    """Up to the third separator or the limit."""
    found = {
        s[: [i for i, t in enumerate(s) if t == SEP][2] + 1] if s.count(SEP) >= 3 else s
        for s in product(range(VOCABULARY), repeat=LONGEST)
    }
    return sorted(found)


def test_a_wide_beam_finds_the_most_probable() -> None:
    sequences = every_sequence()
    how = SearchSettings(beam=len(sequences), answers=len(sequences))
    found = free_search(ToyGenerator(VOCABULARY), keys_of(QUESTIONS), SEP, how, LONGEST)
    assert np.diff(found.offsets).tolist() == [len(sequences)] * len(QUESTIONS)
    for q in range(len(QUESTIONS)):
        span = slice(found.offsets[q], found.offsets[q + 1])
        assert sorted(listed(found.sequences)[span]) == sequences
        assert (np.diff(found.scores[span]) <= 0).all()
        assert np.exp(found.scores[span]).sum() == pytest.approx(1, abs=1e-6)
        assert found.ended[span].tolist() == [s.count(SEP) == 3 for s in listed(found.sequences)[span]]


def test_it_is_masked_search_where_the_trie_holds_everything() -> None:
    keys = sorted(s[:-1] for s in every_sequence() if s.count(SEP) == 3)
    how = SearchSettings(beam=40, answers=3, scoring="masked")
    free = free_search(ToyGenerator(VOCABULARY, 9.0), keys_of(QUESTIONS), SEP, how, 40)
    held = search(built(keys, VOCABULARY), ToyGenerator(VOCABULARY, 9.0), keys_of(QUESTIONS), SEP, "spm", how)
    best = [listed(free.sequences)[free.offsets[q]] for q in range(len(QUESTIONS))]
    short = [q for q, sequence in enumerate(best) if len(sequence) <= LONGEST]
    assert len(short) >= 2
    for q in short:
        assert best[q] == (*keys[held.numbers[held.offsets[q]]], SEP)
        assert free.scores[free.offsets[q]] == pytest.approx(held.scores[held.offsets[q]], abs=1e-6)


def test_batches_and_lengths() -> None:
    whole, parts = (
        free_search(ToyGenerator(VOCABULARY), keys_of(QUESTIONS), SEP, SearchSettings(4, 4, length_power=1, batch=b), 9)
        for b in (64, 1)
    )
    assert listed(whole.sequences) == listed(parts.sequences)
    np.testing.assert_allclose(whole.normalized, whole.scores / whole.sequences.lengths)
    assert free_search(ToyGenerator(3), keys_of([]), SEP, SearchSettings()).offsets.tolist() == [0]
