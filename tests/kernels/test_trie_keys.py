"""Sorted distinct keys, against Python's own sorting, and however they were cut into shards."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import DataError
from kxbatch.kernels.trie import Keys, merge_keys, sort_keys, token_dtype

TOKENS = st.sampled_from([0, 1, 2, 65_535])
ROWS = st.lists(st.lists(TOKENS, max_size=9).map(tuple), max_size=40)
Row = tuple[int, ...]


def listed(keys: Keys) -> list[Row]:
    return [tuple(keys[i].tolist()) for i in range(len(keys))]


@settings(max_examples=200, deadline=None)
@given(rows=ROWS, vocabulary=st.sampled_from([2**16, 2**16 + 1, 2**32]))
def test_sorted_as_python_sorts(rows: list[Row], vocabulary: int) -> None:
    keys, numbers = sort_keys(Keys.of(rows, vocabulary))
    expected = sorted(set(rows))
    assert listed(keys) == expected
    assert numbers.tolist() == [expected.index(row) for row in rows]
    assert keys.tokens.dtype == token_dtype(vocabulary)


@pytest.mark.parametrize("alphabet", [1, 2, 40, 30_000])
def test_many_rows_with_long_shared_prefixes(alphabet: int) -> None:
    rng = np.random.default_rng(alphabet)
    stems = [tuple(rng.integers(alphabet, size=n).tolist()) for n in (0, 3, 4, 5, 8, 21)]
    rows = [
        stems[rng.integers(len(stems))] + tuple(rng.integers(alphabet, size=rng.integers(7)).tolist())
        for _ in range(3000)
    ]
    keys, numbers = sort_keys(Keys.of(rows, alphabet))
    assert listed(keys) == sorted(set(rows))
    assert [tuple(keys[i].tolist()) for i in numbers] == rows
    again, same = sort_keys(keys)
    assert again.tokens.tobytes() == keys.tokens.tobytes()
    assert same.tolist() == list(range(len(keys)))


@settings(max_examples=100, deadline=None)
@given(rows=ROWS, data=st.data())
def test_shards_in_any_cut_merge_to_the_same_bytes(rows: list[Row], data: st.DataObject) -> None:
    edges = sorted(data.draw(st.lists(st.integers(0, len(rows)), max_size=6)))
    spans = list(zip([0, *edges], [*edges, len(rows)], strict=True))
    whole, numbers = sort_keys(Keys.of(rows, 2**16))
    shards = [sort_keys(Keys.of(rows[a:b], 2**16)) for a, b in spans]
    merged, of_shard = merge_keys([keys for keys, _ in shards])
    assert merged.tokens.tobytes() == whole.tokens.tobytes()
    assert merged.starts.tobytes() == whole.starts.tobytes()
    found = [n[of_row] for n, (_, of_row) in zip(of_shard, shards, strict=True)]
    assert np.concatenate(found).tolist() == numbers.tolist()


def test_merging_takes_the_widest_type() -> None:
    narrow, wide = Keys.of([(1, 2), (5,)], 9), Keys.of([(1,), (70_000,)], 2**17)
    merged, numbers = merge_keys([narrow, wide])
    assert merged.tokens.dtype == np.uint32
    assert listed(merged) == [(1,), (1, 2), (5,), (70_000,)]
    assert [n.tolist() for n in numbers] == [[1, 2], [0, 3]]
    assert merge_keys([narrow, Keys.of([], 2**17)])[0].tokens.dtype == np.uint32


def test_a_range_of_keys_is_a_view() -> None:
    keys = Keys.of([(1, 2), (3,), (4, 4, 4), (5,)], 9)
    part = Keys(keys.tokens, keys.starts[1:4])
    assert np.shares_memory(part.tokens, keys.tokens)
    assert listed(part) == [(3,), (4, 4, 4)]
    assert listed(sort_keys(part)[0]) == [(3,), (4, 4, 4)]
    assert listed(merge_keys([part, Keys(keys.tokens, keys.starts[3:])])[0]) == [(3,), (4, 4, 4), (5,)]


@pytest.mark.parametrize(
    ("tokens", "starts", "words"),
    [
        (np.zeros(3, np.int64), np.array([0, 3]), "uint16 or uint32"),
        (np.zeros((3, 1), np.uint16), np.array([0, 3]), "uint16 or uint32"),
        (np.zeros(3, np.uint16), np.array([0, 3], np.int32), "int64"),
        (np.zeros(3, np.uint16), np.empty(0, np.int64), "int64"),
        (np.zeros(3, np.uint16), np.array([0, 4]), "at most the 3 tokens"),
        (np.zeros(3, np.uint16), np.array([0, 2, 1]), "rise"),
        (np.zeros(3, np.uint16), np.array([-1, 2]), "rise"),
    ],
)
def test_arrays_that_are_no_keys_are_refused(tokens: np.ndarray, starts: np.ndarray, words: str) -> None:
    with pytest.raises(DataError, match=words):
        Keys(tokens, starts)


@pytest.mark.parametrize("token", [-1, 9])
def test_tokens_outside_the_vocabulary_are_refused(token: int) -> None:
    with pytest.raises(DataError, match="allowed are 0 to 8"):
        Keys.of([(1,), (token,)], 9)


def test_nothing_to_merge() -> None:
    with pytest.raises(DataError, match="no lists of keys"):
        merge_keys([])
