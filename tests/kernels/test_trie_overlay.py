"""Changes without a rebuild: equal to dictionaries after each of them, and to a fresh build after compaction."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trie_oracle import VOCABULARY, Row, assert_equal, assert_prefixes, built, keys_of, listed

from kxbatch.errors import DataError
from kxbatch.kernels.trie import Overlay, find

ROW = st.lists(st.integers(0, 2), max_size=5).map(tuple)
ROWS = st.lists(ROW, max_size=20)
CHANGES = st.lists(st.tuples(st.booleans(), st.lists(ROW, max_size=6)), max_size=5)


@settings(max_examples=120, deadline=None)
@given(rows=ROWS, changes=CHANGES, questions=ROWS)
def test_equals_dictionaries_after_each_change(
    rows: list[Row], changes: list[tuple[bool, list[Row]]], questions: list[Row]
) -> None:
    base = built(rows)
    fixed = {row: number for number, row in enumerate(sorted(set(rows)))}
    expected, overlay, issued = dict(fixed), Overlay.over(base), len(fixed)
    for adding, batch in changes:
        if adding:
            overlay, numbers = overlay.add(keys_of(batch))
            for row in sorted(set(batch) - set(expected)):
                expected[row] = fixed.get(row, issued)
                issued += row not in fixed
            assert numbers.tolist() == [expected[row] for row in batch]
        else:
            overlay, numbers = overlay.delete(keys_of(batch))
            assert numbers.tolist() == [expected.get(row, -1) for row in batch]
            expected = {row: number for row, number in expected.items() if row not in batch}
        assert_equal(overlay, expected)
        assert listed(overlay.keys(np.array(list(expected.values())[::-1], np.int64))) == list(expected)[::-1]
    assert_prefixes(overlay, expected, questions)
    again = Overlay.from_arrays(base, overlay.to_arrays())
    assert_equal(again, expected)
    assert again.next_number == overlay.next_number
    compacted, numbers = overlay.compact()
    fresh = built(expected).to_arrays()
    assert [(x.dtype, x.tobytes()) for x in compacted.to_arrays().values()] == [
        (x.dtype, x.tobytes()) for x in fresh.values()
    ]
    assert numbers.tolist() == [expected[row] for row in sorted(expected)]


def test_keys_of_deleted_numbers_and_of_none() -> None:
    overlay, numbers = Overlay.over(built([(1, 2)])).add(keys_of([(3,), (2, 2)]))
    overlay, _ = overlay.delete(keys_of([(1, 2)]))
    assert listed(overlay.keys(np.array([numbers[1], 0, numbers[0]]))) == [(2, 2), (1, 2), (3,)]
    with pytest.raises(DataError, match="key numbers up to 9"):
        overlay.keys(np.array([0, 9]))


def test_a_search_goes_on_with_the_overlay_it_began_with() -> None:
    before = Overlay.over(built([(1, 2), (1, 3)]))
    after, numbers = before.delete(keys_of([(1, 3), (6,)]))
    assert numbers.tolist() == [1, -1]
    states = [x.advance(x.start(1), np.array([1])) for x in (before, after)]
    assert before.allowed(states[0]).tokens.tolist() == [2, 3]
    assert after.allowed(states[1]).tokens.tolist() == [2]
    assert len(before) == 2
    assert len(after) == 1


def test_deleting_all_keys_leaves_nothing_to_say() -> None:
    rows = [(1, 2), (1, 3), (4,)]
    overlay, _ = Overlay.over(built(rows)).delete(keys_of(rows))
    assert len(overlay.allowed(overlay.start(2)).tokens) == 0
    assert overlay.count(overlay.start(1)).tolist() == [0]
    back, numbers = overlay.add(keys_of([(4,)]))
    assert numbers.tolist() == [2]
    assert len(back.added) == 0
    assert find(back, keys_of(rows)).tolist() == [-1, -1, 2]


def test_a_number_is_given_once() -> None:
    overlay, first = Overlay.over(built([(1,)])).add(keys_of([(2,), (3,)]))
    overlay, _ = overlay.delete(keys_of([(3,)]))
    overlay, second = overlay.add(keys_of([(3,)]))
    assert (first.tolist(), second.tolist()) == ([1, 2], [3])


def test_changes_over_another_trie_are_refused() -> None:
    overlay, _ = Overlay.over(built([(1,), (2,), (3,)])).delete(keys_of([(3,)]))
    with pytest.raises(DataError, match="were not made over this trie of 2 keys"):
        Overlay.from_arrays(built([(1,), (2,)]), overlay.to_arrays())


def test_added_tokens_outside_the_vocabulary_are_refused() -> None:
    with pytest.raises(DataError, match=f"allows 0 to {VOCABULARY - 1}"):
        Overlay.over(built([(1,)])).add(keys_of([(VOCABULARY,)], VOCABULARY + 1))
