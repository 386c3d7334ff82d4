"""Which words are chosen, what becomes of them, and that it depends on the row alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.models.masking import TokenRows, choose, joined_words, replace
from kxbatch.models.sequences import Frame, joined, one_a_row

MASK, FIRST, VOCABULARY = 3, 4, 104
ORDINARY = np.arange(FIRST, VOCABULARY, dtype=np.int32)


def rows_of(word_lengths: list[list[int]], seed: int = 0) -> TokenRows:
    """Rows of words of so many tokens, with random ids."""
    words = [np.repeat(np.arange(len(row)), row) for row in word_lengths]
    starts = np.cumsum([0, *(len(row) for row in words)])
    tokens = np.random.default_rng(seed).choice(ORDINARY, int(starts[-1]))
    return TokenRows(tokens, np.concatenate([np.empty(0), *words]).astype(np.int32), starts)


def keys_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


def row(rows: TokenRows, r: int) -> TokenRows:
    part = slice(rows.starts[r], rows.starts[r + 1])
    return TokenRows(rows.tokens[part], rows.words[part], np.array([0, rows.lengths[r]]))


word_lists = st.lists(st.lists(st.integers(1, 5), max_size=12), min_size=1, max_size=8)


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_shares_are_as_stated(share: float) -> None:
    draws = np.random.default_rng(1).integers(1, 4, (400, 250))
    rows, keys = rows_of([list(row) for row in draws]), keys_of(400)
    chosen = choose(rows, keys, 0, share)
    seen = replace(rows, chosen, keys, 0, MASK, ORDINARY)
    # 100 000 words of 2 tokens: standard deviation of a share below 0.0016
    assert chosen.mean() == pytest.approx(share, abs=0.007)
    hidden, before = seen[chosen], rows.tokens[chosen]
    # of at least 28 000 chosen tokens: below 0.0025
    assert (hidden == MASK).mean() == pytest.approx(0.8, abs=0.01)
    other = (hidden != MASK) & (hidden != before)
    assert other.mean() == pytest.approx(0.1 * 99 / 100, abs=0.008)
    assert (hidden == before).mean() == pytest.approx(0.1 + 0.1 / 100, abs=0.008)
    np.testing.assert_array_equal(seen[~chosen], rows.tokens[~chosen])
    counts = np.bincount(hidden[other], minlength=VOCABULARY)[FIRST:]
    assert counts.min() > 0.4 * counts.mean(), "replacements are spread over the vocabulary"
    assert not np.bincount(hidden[other], minlength=VOCABULARY)[:FIRST].any()


def test_draws_of_a_row_and_of_rows_are_unrelated() -> None:
    rows, keys = rows_of([[1] * 500] * 200), np.arange(200, dtype=np.uint64)  # keys that are close together
    a, b = (choose(rows, keys, draw, 0.15).reshape(200, 500) for draw in (0, 1))
    # correlations of 100 000 pairs: standard deviation 0.003
    assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(a[:-1].ravel(), a[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(a[:, :-1].ravel(), a[:, 1:].ravel())[0, 1]) < 0.015
    # counts of a row are binomial: 500 * 0.15 * 0.85 = 63.75
    assert a.sum(axis=1).var() == pytest.approx(63.75, rel=0.4)


@settings(max_examples=200, deadline=None)
@given(words=word_lists, draw=st.integers(-1, 2**40), share=st.floats(0.01, 0.99), seed=st.integers(0, 99))
def test_words_are_chosen_whole_and_every_row_has_one(
    words: list[list[int]], draw: int, share: float, seed: int
) -> None:
    rows, keys = rows_of(words), keys_of(len(words), seed)
    chosen = choose(rows, keys, draw, share)
    for r, lengths in enumerate(words):
        part = chosen[rows.starts[r] : rows.starts[r + 1]]
        assert part.any() == bool(lengths)
        for word in range(len(lengths)):
            assert len(set(part[row(rows, r).words == word].tolist())) == 1


@settings(max_examples=100, deadline=None)
@given(words=word_lists, draw=st.integers(-1, 1000), seed=st.integers(0, 99))
def test_a_row_is_masked_alike_in_any_company(words: list[list[int]], draw: int, seed: int) -> None:
    rows, keys = rows_of(words), keys_of(len(words), seed)
    chosen = choose(rows, keys, draw, 0.3)
    seen = replace(rows, chosen, keys, draw, MASK, ORDINARY)
    for r in range(len(words)):
        alone = choose(row(rows, r), keys[r : r + 1], draw, 0.3)
        part = slice(rows.starts[r], rows.starts[r + 1])
        np.testing.assert_array_equal(alone, chosen[part])
        hidden = replace(row(rows, r), alone, keys[r : r + 1], draw, MASK, ORDINARY)
        np.testing.assert_array_equal(hidden, seen[part])


def test_the_draws_are_those_of_the_first_release() -> None:
    """A changed hash would change every training that goes on from a checkpoint."""
    rows, keys = rows_of([[1] * 40, [2] * 20]), np.array([7, 2**64 - 1], np.uint64)
    chosen = choose(rows, keys, 3, 0.2)
    assert np.flatnonzero(chosen).tolist() == [3, 4, 19, 26, 27, 30, 31, 34, 35, 38, 39, 50, 51, 60, 61, 68, 69]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_joined_words_are_unions_of_words_and_segments(data: st.DataObject) -> None:
    text = data.draw(st.integers(1, 20))
    ends = st.lists(st.integers(1, text - 1), unique=True).map(lambda cuts: np.array([*sorted(cuts), text]))
    token_ends, word_ends, segments = (data.draw(ends) if text > 1 else np.array([1]) for _ in range(3))
    token_ends = np.unique(np.concatenate([token_ends, word_ends]))  # a token is part of one word
    offsets = np.stack([np.concatenate([[0], token_ends[:-1]]), token_ends], axis=1)
    words = np.searchsorted(word_ends, offsets[:, 0], side="right").astype(np.int32)
    joined_up = joined_words(words, offsets, segments)
    # the finest division of the text whose parts cut no word and no segment that a token crosses
    for i in range(1, len(offsets)):
        at = offsets[i, 0]
        free = at in word_ends and at in segments
        assert (joined_up[i] != joined_up[i - 1]) == free
    assert joined_up[0] == 0
    assert set(np.diff(joined_up)) <= {0, 1}


def test_tokens_of_one_character_stay_together() -> None:
    # three bytes of one character share its place
    offsets = np.array([[0, 1], [1, 2], [1, 2], [1, 2], [2, 3]])
    words = np.array([0, 1, 1, 1, 2], np.int32)
    assert joined_words(words, offsets, np.array([1, 2, 3])).tolist() == [0, 1, 1, 1, 2]
    assert joined_words(words, offsets, np.array([2, 3])).tolist() == [0, 0, 0, 0, 1]
    assert joined_words(words[:0], offsets[:0], np.array([], np.int64)).tolist() == []


@settings(max_examples=200, deadline=None)
@given(words=word_lists, length=st.integers(2, 30))
def test_sequences_hold_every_token_once(words: list[list[int]], length: int) -> None:
    rows, keys = rows_of(words), keys_of(len(words))
    chosen = choose(rows, keys, 0, 0.3)
    seen = replace(rows, chosen, keys, 0, MASK, ORDINARY)
    frame = Frame(pad=0, cls=1, sep=2)
    for made in (one_a_row(rows, seen, chosen, frame), joined(rows, seen, chosen, frame, length)):
        assert np.count_nonzero(made.ids == 0) == made.ids.size - made.lengths.sum()
        inside = np.arange(made.ids.shape[1]) < made.lengths[:, None]
        np.testing.assert_array_equal(made.ids == 0, ~inside)
        ids = made.ids[inside]
        np.testing.assert_array_equal(ids[(ids != 1) & (ids != 2)], seen)
        assert (ids == 2).sum() == len(words)
        assert (ids == 1).sum() == len(made.ids)
        np.testing.assert_array_equal(made.ids.flat[made.positions], seen[chosen])
        np.testing.assert_array_equal(made.labels, rows.tokens[chosen])
