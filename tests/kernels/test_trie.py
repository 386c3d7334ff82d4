"""The flat trie equals a trie of dictionaries; its arrays travel, stay where they are, and are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from trie_oracle import Row, assert_equal, assert_prefixes, built, keys_of, listed

from kxbatch.errors import DataError
from kxbatch.kernels.trie import Keys, Trie, find, merge_keys, sort_keys, token_dtype

ROW = st.lists(st.integers(0, 3), max_size=6).map(tuple)
ROWS = st.lists(ROW, max_size=30)


def numbered(rows: list[Row]) -> dict[Row, int]:
    return {row: number for number, row in enumerate(sorted(set(rows)))}


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, questions=ROWS)
@example(rows=[], questions=[(), (1,)])
@example(rows=[()], questions=[(), (1,)])
@example(rows=[(1, 2, 3)], questions=[(1, 2), (1, 2, 3, 4)])
@example(rows=[(1,), (1, 1), (1, 1, 1), (1,)], questions=[(1, 1, 2)])
@example(rows=[(), (0,), (0, 0, 0, 0), (0, 0, 0, 1)], questions=[(0, 0)])
def test_equals_dictionaries(rows: list[Row], questions: list[Row]) -> None:
    trie = built(rows)
    assert_equal(trie, numbered(rows))
    assert_prefixes(trie, numbered(rows), questions)
    assert listed(trie.keys(np.arange(len(trie)))) == sorted(set(rows))


def synthetic(n: int, vocabulary: int, seed: int = 0) -> Keys:
    """Keys of 12 tokens or so, in the shape of facts: a subject out of few begins many of them, and predicates repeat."""
    rng = np.random.default_rng(seed)
    parts = []
    for rows, width, pool in ((n, 5, n // 3), (n, 4, 400), (n, 4, n)):
        words = rng.integers(3, vocabulary, size=(pool, width))
        words[np.arange(width) > rng.integers(1, width, size=(pool, 1))] = 0
        chosen = rng.integers(pool, size=rows)
        parts += [words[chosen], np.full((rows, 1), 2)]
    table = np.concatenate(parts, axis=1)
    starts = np.concatenate([[0], np.cumsum((table > 0).sum(axis=1))])
    return sort_keys(Keys(table[table > 0].astype(token_dtype(vocabulary)), starts))[0]


def test_many_keys_of_a_wide_root() -> None:
    keys = synthetic(20_000, 30_000)
    trie = Trie.build(keys, 30_000)
    everything = trie.keys(np.arange(len(trie)))
    assert everything.tokens.tobytes() == keys.tokens.tobytes()
    assert everything.starts.tobytes() == keys.starts.tobytes()
    order = np.random.default_rng(1).permutation(len(keys))
    assert (find(trie, keys.take(order)) == order).all()
    at_root = trie.allowed(trie.start(1))
    assert at_root.tokens.tolist() == np.unique(keys.tokens[keys.starts[:-1]]).tolist()
    assert trie.count(at_root.states).sum() == trie.count(trie.start(1))[0] == len(keys)


def test_long_keys_and_long_tails() -> None:
    rng = np.random.default_rng(0)
    stem = tuple(rng.integers(4, size=300).tolist())
    rows = [(), stem, (*stem, 1), *[(i % 4, *rng.integers(4, size=2000).tolist()) for i in range(200)]]
    trie = built(rows)
    assert trie.arrays.tail_offset.dtype == np.uint32
    assert listed(trie.keys(np.arange(len(trie)))) == sorted(set(rows))
    assert (find(trie, keys_of(sorted(set(rows)))) == np.arange(len(trie))).all()


@settings(max_examples=50, deadline=None)
@given(rows=ROWS, cut=st.integers(0, 30))
def test_any_sharding_gives_the_same_bytes(rows: list[Row], cut: int) -> None:
    shards = [sort_keys(keys_of(part))[0] for part in (rows[:cut], rows[cut:], rows[::2])]
    merged = Trie.build(merge_keys(shards)[0], 7)
    for name, x in built(rows).to_arrays().items():
        assert merged.to_arrays()[name].tobytes() == x.tobytes()
        assert merged.to_arrays()[name].dtype == x.dtype


@pytest.mark.parametrize(("vocabulary", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_tokens_widen_with_the_vocabulary(vocabulary: int, dtype: type) -> None:
    rows = [(vocabulary - 1, 5), (5, vocabulary - 1, vocabulary - 1), (5, 6)]
    trie = built(rows, vocabulary)
    assert {trie.arrays.token.dtype, trie.arrays.tail.dtype} == {np.dtype(dtype)}
    assert trie.vocabulary == vocabulary
    assert trie.allowed(trie.start(1)).tokens.tolist() == [5, vocabulary - 1]
    assert find(trie, keys_of(rows, vocabulary)).tolist() == [2, 1, 0]


def test_a_range_of_keys_builds_the_trie_of_that_range() -> None:
    rows = [(0, 1), (1, 1), (1, 1, 2), (2,)]
    keys = keys_of(rows)
    part = Trie.build(Keys(keys.tokens, keys.starts[1:4]), 7)
    assert [x.tobytes() for x in part.arrays] == [x.tobytes() for x in built(rows[1:3]).arrays]


def test_narrow_tokens_build_a_wide_trie() -> None:
    keys = sort_keys(keys_of([(1, 2), (1, 3, 4)]))[0]
    wide = built([(1, 2), (1, 3, 4)], 2**17)
    assert Trie.build(keys, 2**17).arrays.tail.tobytes() == wide.arrays.tail.tobytes()


def test_bytes_per_key() -> None:
    """About 12 tokens a key, 25 bytes and 8 for the start as a plain list; the root has 4 bytes a word on top, once."""
    keys = synthetic(200_000, 30_000)
    assert 11 < keys.lengths.mean() < 13
    trie = Trie.build(keys, 30_000)
    assert (trie.nbytes - trie.arrays.root.nbytes) / len(keys) < 30


def test_memory_maps_are_used_where_they_lie(tmp_path: Path) -> None:
    keys = synthetic(2_000, 500)
    trie = Trie.build(keys, 500)
    maps = {}
    for name, x in trie.to_arrays().items():
        np.save(tmp_path / f"{name}.npy", x)
        maps[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    opened = Trie.from_arrays(maps)
    for name, x in opened.to_arrays().items():
        assert np.shares_memory(x, maps[name])
        assert not x.flags.writeable
    assert (find(opened, keys) == np.arange(len(keys))).all()
    save_file(trie.to_arrays(), tmp_path / "trie.safetensors")
    assert (find(Trie.from_arrays(load_file(tmp_path / "trie.safetensors")), keys) == np.arange(len(keys))).all()


def test_arrays_that_make_no_trie_are_refused() -> None:
    arrays = built([(1, 2), (1, 3, 5, 5)]).to_arrays()
    with pytest.raises(DataError, match="without its arrays tail_base"):
        Trie.from_arrays({name: x for name, x in arrays.items() if name != "tail_base"})
    for name, x in arrays.items():
        with pytest.raises(DataError, match="damaged"):
            Trie.from_arrays(arrays | {name: x.astype(np.float32)})
        with pytest.raises(DataError, match="damaged"):
            Trie.from_arrays(arrays | {name: x.reshape(1, -1)})
    for name in ("token", "first", "tail", "tail_offset", "inner", "below"):
        with pytest.raises(DataError, match="damaged"):
            Trie.from_arrays(arrays | {name: np.concatenate([arrays[name], arrays[name], arrays[name]])})
    with pytest.raises(DataError, match="contradict"):
        Trie.from_arrays(arrays | {"root": arrays["root"][:1]})


@pytest.mark.parametrize("rows", [[(2,), (1,)], [(1,), (1,)], [(1, 1), (1,)], [(0,), (1, 2), (1, 2)]])
def test_keys_that_are_not_sorted_are_refused(rows: list[Row]) -> None:
    with pytest.raises(DataError, match=rf"key {len(rows) - 1}, .* does not come after"):
        Trie.build(keys_of(rows), 7)


def test_what_lies_outside_is_refused() -> None:
    with pytest.raises(DataError, match="key 1 holds token 6, the vocabulary allows 0 to 5"):
        Trie.build(keys_of([(1,), (1, 6)]), 6)
    with pytest.raises(DataError, match="the trie has 0 to 0"):
        built([(1,)]).keys(np.array([1]))
