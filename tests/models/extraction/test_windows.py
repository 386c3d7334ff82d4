"""Windows: whoever decides by what is near finds the same with them as without them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.windows import Windows, merge, windows

Found = tuple[int, int, int, int, float]  # row, start, end, type, score


def local(row: int, tokens: np.ndarray, context: int, widest: int) -> list[Found]:
    """Spans and scores that depend on the tokens of a span and on `context` tokens before and after it, borders seen too."""
    found = []
    for start in range(len(tokens)):
        for end in range(start + 1, min(start + widest, len(tokens)) + 1):
            seen = (
                tuple(tokens[max(0, start - context) : start]),
                tuple(tokens[start:end]),
                tuple(tokens[end : end + context]),
            )
            draw = np.random.default_rng(abs(hash(seen))).random()
            if draw < 0.3:
                found += [(row, start, end, type_, draw) for type_ in range(1 + (draw < 0.1))]
    return found


@st.composite
def cuts(draw: st.DrawFn) -> tuple[list[int], int, int, int, int]:
    context, widest = draw(st.integers(0, 2)), draw(st.integers(1, 3))
    overlap = widest + 2 * context + draw(st.integers(0, 3))
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    return lengths, overlap + draw(st.integers(1, 6)), overlap, context, widest


@settings(deadline=None)
@given(cuts(), st.integers(0, 2**16))
def test_local_decisions_are_those_without_windows(case: tuple[list[int], int, int, int, int], seed: int) -> None:
    lengths, size, overlap, context, widest = case
    rng = np.random.default_rng(seed)
    documents = [rng.integers(3, size=length) for length in lengths]
    whole = [span for number, tokens in enumerate(documents) for span in local(number, tokens, context, widest)]
    cut = windows(np.array(lengths), size, overlap)
    pieces = [documents[d][a:b] for d, a, b in zip(cut.documents, cut.firsts, cut.lasts, strict=True)]
    found = [span for number, tokens in enumerate(pieces) for span in local(number, tokens, context, widest)]
    rows, starts, ends, types, scores = np.array(found, object).reshape(-1, 5).T
    merged = merge(cut, *(np.array(x, np.int64) for x in (rows, starts, ends, types)))
    kept = (merged.documents, merged.starts, merged.ends, types[merged.kept], scores[merged.kept])
    assert list(zip(*map(list, kept), strict=True)) == sorted(whole)


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), max_size=5), st.integers(1, 12), st.integers(0, 11))
def test_windows_cover_and_overlap(lengths: list[int], size: int, overlap: int) -> None:
    if overlap >= size:
        with pytest.raises(ConfigError, match="smaller than a window"):
            windows(np.array(lengths), size, overlap)
        return
    cut = windows(np.array(lengths, np.int64), size, overlap)
    assert set(cut.documents.tolist()) == {number for number, length in enumerate(lengths) if length}
    for number, length in enumerate(lengths):
        of_it = cut.documents == number
        first, last = cut.firsts[of_it], cut.lasts[of_it]
        if length:
            assert (first[0], last[-1]) == (0, length)
            assert (last - first == min(size, length)).all()
            assert (last[:-1] - first[1:] >= overlap).all()
            assert (np.diff(first) > 0).all()
            assert (length - last[:-1] > 0).all()  # no window more than it takes


def test_the_window_that_sees_more_decides() -> None:
    cut = windows(np.array([16]), 10, 4)
    assert list(zip(cut.firsts.tolist(), cut.lasts.tolist(), strict=True)) == [(0, 10), (6, 16)]
    rows = np.array([0, 1, 0, 1, 0])
    starts, ends = np.array([7, 1, 8, 1, 6]), np.array([8, 2, 10, 4, 10])
    merged = merge(cut, rows, starts, ends, np.zeros(5, int))
    # 7:8 is 2 from the border of the first and 1 from that of the second; 8:10 touches the first's border and the second
    # did not find it; 7:10 is found by the second alone, which sees what follows; 6:10 fills the overlap, so the first decides.
    assert list(zip(merged.starts.tolist(), merged.ends.tolist(), merged.kept.tolist(), strict=True)) == [
        (6, 10, 4), (7, 8, 0), (7, 10, 3),
    ]  # fmt: skip


def test_a_span_wider_than_the_overlap_is_judged_by_the_only_window_that_holds_it() -> None:
    cut = windows(np.array([30]), 10, 2)
    merged = merge(cut, np.array([1]), np.array([0]), np.array([10]), np.array([0]))
    assert (merged.starts.tolist(), merged.ends.tolist()) == ([8], [18])


def test_nothing_is_merged_to_nothing() -> None:
    cut = windows(np.array([0, 0]), 4, 1)
    none = np.empty(0, np.int64)
    assert isinstance(cut, Windows)
    assert not len(merge(cut, none, none, none, none).kept)
