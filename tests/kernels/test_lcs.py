"""Lengths of common subsequences against the dynamic programme of the textbook."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import DataError
from kxbatch.kernels.lcs import common_runs, lcs_lengths
from kxbatch.kernels.trie import Keys


def naive(a: list[int], b: list[int]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def lengths(questions: list[list[int]], texts: list[list[int]], of: list[int], vocabulary: int = 9) -> list[int]:
    return lcs_lengths(Keys.of(questions, vocabulary), Keys.of(texts, vocabulary), np.array(of, np.int64)).tolist()


SEQUENCES = st.lists(st.lists(st.integers(0, 5), max_size=14), min_size=1, max_size=5)


@settings(max_examples=200, deadline=None)
@given(questions=SEQUENCES, texts=SEQUENCES, data=st.data())
def test_short_sequences(questions: list[list[int]], texts: list[list[int]], data: st.DataObject) -> None:
    n = len(texts)
    of = data.draw(st.lists(st.integers(0, len(questions) - 1), min_size=n, max_size=n))
    assert lengths(questions, texts, of) == [naive(questions[q], text) for q, text in zip(of, texts, strict=True)]


def longest_run(a: list[int], b: list[int]) -> int:
    runs = [a[i:j] for i in range(len(a)) for j in range(i + 1, len(a) + 1)]
    return max([len(run) for run in runs if any(b[at : at + len(run)] == run for at in range(len(b)))], default=0)


@settings(max_examples=200, deadline=None)
@given(questions=SEQUENCES, texts=SEQUENCES, data=st.data())
def test_runs(questions: list[list[int]], texts: list[list[int]], data: st.DataObject) -> None:
    n = len(texts)
    of = data.draw(st.lists(st.integers(0, len(questions) - 1), min_size=n, max_size=n))
    lengths, places = common_runs(Keys.of(questions, 9), Keys.of(texts, 9), np.array(of, np.int64))
    assert lengths.tolist() == [longest_run(text, questions[q]) for q, text in zip(of, texts, strict=True)]
    for q, text, length, at in zip(of, texts, lengths.tolist(), places.tolist(), strict=True):
        run, question = questions[q][at : at + length], questions[q]
        assert longest_run(run, text) == len(run) == length
        if text and length == len(text):
            assert at == min(i for i in range(len(question)) if question[i : i + length] == text)


@pytest.mark.parametrize("m", [1, 63, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("alphabet", [1, 2, 7])
def test_questions_of_several_words(m: int, alphabet: int) -> None:
    rng = np.random.default_rng(m * alphabet)
    question = rng.integers(alphabet, size=m).tolist()
    texts = [rng.integers(alphabet + 1, size=n).tolist() for n in (0, 1, 64, 200)] + [question, question[::-1]]
    assert lengths([question], texts, [0] * len(texts)) == [naive(question, text) for text in texts]


def test_large_tokens_and_tokens_that_no_question_holds() -> None:
    big = 2**17
    found = lengths([[big - 9, 4, big - 8]], [[big - 1, big - 9, big - 8], [big - 1], [4]], [0, 0, 0], big)
    assert found == [2, 0, 1]


def test_nothing_to_compare() -> None:
    assert lengths([], [], []) == []
    assert lengths([[]], [[], [1, 2]], [0, 0]) == [0, 0]


@pytest.mark.parametrize(
    ("of", "words"), [([0], "one for each text"), ([0, 1], "questions 0 to 0"), ([0, -1], "0 to 0")]
)
def test_a_text_without_its_question_is_refused(of: list[int], words: str) -> None:
    with pytest.raises(DataError, match=words):
        lengths([[1]], [[1], [2]], of)
