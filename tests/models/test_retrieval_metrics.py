"""The measures of KgCLUE against cases worked out by hand, and against the definition spelt out."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import DataError
from kxbatch.models.retrieval.metrics import Match, all_parts, hits, match

CASES = [  # answer, gold texts, EM, F1
    ("北京", ["北京"], True, 1.0),
    ("北京市", ["北京"], False, 4 / 5),
    ("上海", ["北京"], False, 0.0),
    ("Beijing", ["beijing"], True, 1.0),
    ("  New \t York ", ["new york"], True, 1.0),
    ("ＡＢＣ", ["abc"], True, 1.0),
    ("abcde", ["ace"], False, 6 / 8),
    ("ab", ["ba"], False, 2 / 4),
    ("", ["北京"], False, 0.0),
    ("北京", [""], False, 0.0),
    ("", [""], True, 0.0),  # EM of nothing with nothing is 1, F1 is 0: the script says so
    (" ", [""], True, 0.0),
    (None, ["北京"], False, 0.0),
    (None, [""], False, 0.0),
    ("b", ["xbx", "b", "a"], True, 1.0),
    ("ab", ["xaxb", "cab"], False, 4 / 5),
    ("𠮷野家", ["𠮷野"], False, 4 / 5),  # one character, though UTF-16 takes two units
]


@pytest.mark.parametrize(("answer", "golds", "exact", "f1"), CASES)
def test_cases(answer: str | None, golds: list[str], exact: bool, f1: float) -> None:
    found = match([answer], [golds])
    assert found.exact.tolist() == [exact]
    np.testing.assert_allclose(found.f1, [f1], rtol=1e-15)
    np.testing.assert_allclose(found.score, [(exact + f1) / 2], rtol=1e-15)


def test_many_questions_at_once_are_as_one_by_one() -> None:
    found = match([case[0] for case in CASES], [case[1] for case in CASES])
    assert found.exact.tolist() == [case[2] for case in CASES]
    np.testing.assert_allclose(found.f1, [case[3] for case in CASES], rtol=1e-15)
    assert len(match([], []).exact) == len(match([], []).f1) == 0


def naive_f1(a: str, b: str) -> float:
    @cache
    def common(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    return 2 * common(0, 0) / (len(a) + len(b)) if a or b else 0.0


WORD = st.text("ab c年A", max_size=9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.none() | WORD, st.lists(WORD, min_size=1, max_size=3)), max_size=5))
def test_against_the_definition(cases: list[tuple[str | None, list[str]]]) -> None:
    found = match([answer for answer, _ in cases], [golds for _, golds in cases])
    for at, (answer, golds) in enumerate(cases):
        told = " ".join((answer or "").lower().split())
        clean = [" ".join(gold.lower().split()) for gold in golds]
        assert found.exact[at] == (answer is not None and told in clean)
        expected = 0.0 if answer is None else max(naive_f1(told, gold) for gold in clean)
        np.testing.assert_allclose(found.f1[at], expected, rtol=1e-12)


def test_all_parts_are_right_only_together() -> None:
    one = Match(np.array([True, True, False]), np.array([1.0, 1.0, 0.5]))
    two = Match(np.array([True, False, False]), np.array([1.0, 0.2, 0.0]))
    both = all_parts([one, two])
    assert both.exact.tolist() == [True, False, False]
    np.testing.assert_allclose(both.f1, [1.0, 0.6, 0.25])


def test_hits() -> None:
    ranks = np.array([0, 2, -1, 1])
    assert [hits(ranks, n) for n in (1, 2, 3, 10)] == [0.25, 0.5, 0.75, 0.75]
    assert hits(ranks[:0], 1) == 0.0


def test_a_question_without_a_gold_text_is_refused() -> None:
    with pytest.raises(DataError, match="1 of them without one"):
        match(["a", "b"], [["a"], []])
    with pytest.raises(DataError, match="1 answers, 2 questions"):
        match(["a"], [["a"], ["b"]])
