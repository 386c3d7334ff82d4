"""Beam search for keys, against scoring every key by itself and a beam search in plain Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from search_oracle import Oracle, lcs
from toy_generator import ToyGenerator
from trie_oracle import Row, built, keys_of

from kxbatch.errors import ConfigError, DataError, FatalError
from kxbatch.kernels.trie import Automaton, Keys, Overlay
from kxbatch.models.retrieval.baseline import link
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import Hypotheses, Order, SearchSettings
from kxbatch.models.retrieval.sources import with_separator

SEP, VOCABULARY = 1, 7
TOKEN = st.sampled_from([0, 2, 3, 4, 5, 6])
PART = st.lists(TOKEN, max_size=3).map(tuple)
KEY = st.tuples(PART, PART, PART).map(lambda parts: (*parts[0], SEP, *parts[1], SEP, *parts[2]))
KEYS = st.lists(KEY, min_size=1, max_size=14, unique=True).map(sorted)
QUESTION = st.lists(TOKEN, max_size=8).map(tuple)
SETTINGS = st.builds(
    SearchSettings,
    beam=st.integers(1, 16),
    scoring=st.sampled_from(["renormalised", "masked"]),
    look_ahead=st.sampled_from(["none", "predicate", "predicate-meaning"]),
    look_ahead_limit=st.sampled_from([0, 3, 6, 4096]),
    batch=st.sampled_from([1, 3, 64]),
    linked=st.sampled_from([0, 1, 3, 20]),
).map(lambda s: replace(s, answers=s.beam))
ORDER: st.SearchStrategy[Order] = st.sampled_from(["spm", "smp"])


def toy_logits(question: Row, scale: float = 4.0) -> Callable[[Row], list[float]]:
    """What the toy gives after any prefix, one prefix at a time."""

    def logits(said: Row) -> list[float]:
        decoding = ToyGenerator(VOCABULARY, scale).begin(keys_of([(*question, SEP)]))
        for token in said:
            decoding.advance(np.zeros((1, 1), np.int64), np.full((1, 1), token))
        return [float(x) for x in decoding.all_logits()[0]]

    return logits


def oracle_of(rows: list[Row], order: Order, how: SearchSettings) -> Oracle:
    sequences = [(*row, SEP) for row in rows]
    return Oracle(sequences, SEP, how.scoring == "renormalised", how.ahead(order), how.look_ahead_limit)


def searched(
    rows: list[Row], questions: list[Row], order: Order, how: SearchSettings, scale: float = 4.0
) -> Hypotheses:
    return search(built(rows), ToyGenerator(VOCABULARY, scale), keys_of(questions), SEP, order, how)


def linked_sequences(rows: list[Row], question: Row, how: SearchSettings) -> list[Row]:
    numbers = link(built(rows), keys_of([question]), SEP, how.linked).numbers
    return [(*rows[number], SEP) for number in numbers]


def span(found: Hypotheses, q: int) -> slice:
    return slice(int(found.offsets[q]), int(found.offsets[q + 1]))


@settings(max_examples=60, deadline=None)
@given(rows=KEYS, questions=st.lists(QUESTION, min_size=1, max_size=3), order=ORDER, how=SETTINGS)
@example(rows=[(1, 1)], questions=[()], order="spm", how=SearchSettings())
@example(rows=[(2, 1, 1), (2, 1, 1, 3), (2, 1, 1, 3, 4)], questions=[(3,)], order="spm", how=SearchSettings())
def test_a_beam_of_all_keys_ranks_them_as_scoring_each_does(
    rows: list[Row], questions: list[Row], order: Order, how: SearchSettings
) -> None:
    found = searched(rows, questions, order, replace(how, beam=len(rows), answers=len(rows)))
    oracle = oracle_of(rows, order, how)
    for q, question in enumerate(questions):
        numbers = found.numbers[span(found, q)]
        assert sorted(numbers.tolist()) == list(range(len(rows)))
        scored = [oracle.score((*row, SEP), toy_logits(question), question) for row in rows]
        np.testing.assert_allclose(found.scores[span(found, q)], [scored[n][0] for n in numbers], atol=1e-6)
        np.testing.assert_allclose(found.part_scores[span(found, q)], [scored[n][1] for n in numbers], atol=1e-6)
        assert (np.diff(found.scores[span(found, q)]) <= 0).all()
        assert found.lengths[span(found, q)].tolist() == [len(rows[n]) + 1 for n in numbers]


@settings(max_examples=60, deadline=None)
@given(rows=KEYS, questions=st.lists(QUESTION, min_size=1, max_size=3), order=ORDER, how=SETTINGS)
def test_a_small_beam_is_a_beam_search(
    rows: list[Row], questions: list[Row], order: Order, how: SearchSettings
) -> None:
    found = searched(rows, questions, order, how)
    for q, question in enumerate(questions):
        staying = linked_sequences(rows, question, how)
        expected = oracle_of(rows, order, how).beam_search(toy_logits(question), question, how.beam, staying)
        expected = expected[: how.answers]
        np.testing.assert_allclose(found.scores[span(found, q)], [score for score, _ in expected], atol=1e-6)
        assert {(*rows[n], SEP) for n in found.numbers[span(found, q)]} == {said for _, said in expected}


@settings(max_examples=50, deadline=None)
@given(rows=KEYS, seed=st.integers(0, 2**32), order=ORDER, how=SETTINGS)
def test_nothing_but_keys_is_found(rows: list[Row], seed: int, order: Order, how: SearchSettings) -> None:
    """200 random models in each of the 50 examples."""
    draws = np.random.default_rng(seed).choice([0, 2, 3, 4, 5, 6], size=(200, 12))
    found = searched(rows, [tuple(draw) for draw in draws.tolist()], order, replace(how, batch=256))
    size = min(how.beam, len(rows))
    assert found.offsets.tolist() == list(range(0, 200 * size + 1, size))
    numbers, scores = found.numbers.reshape(200, size), found.scores.reshape(200, size)
    assert ((numbers >= 0) & (numbers < len(rows))).all()
    assert (np.diff(np.sort(numbers, axis=1), axis=1) > 0).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    assert np.isfinite(scores).all()
    assert (found.lengths == np.array([len(row) + 1 for row in rows])[found.numbers]).all()
    if how.scoring == "renormalised":
        assert (np.exp(scores).sum(axis=1) < 1 + 1e-9).all()
        if size == len(rows):
            np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(rows=KEYS, order=ORDER)
def test_uniform_logits_spread_exactly_over_the_children(rows: list[Row], order: Order) -> None:
    how = SearchSettings(beam=len(rows), answers=len(rows))
    found = searched(rows, [(2, 3)], order, how, scale=0.0)
    for number, score in zip(found.numbers, found.scores, strict=True):
        sequence, expected = (*rows[number], SEP), 0.0
        for t in range(len(sequence)):
            expected -= np.log(len({(*row, SEP)[t] for row in rows if (*row, SEP)[:t] == sequence[:t]}))
        assert score == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(base=KEYS, more=KEYS, gone=KEYS, how=SETTINGS)
def test_added_keys_are_found_and_deleted_ones_are_not(
    base: list[Row], more: list[Row], gone: list[Row], how: SearchSettings
) -> None:
    overlay, _ = Overlay.over(built(base)).add(keys_of(more))
    overlay, _ = overlay.delete(keys_of([*gone, base[0]]))
    left = sorted((set(base) | set(more)) - set(gone) - {base[0]})
    trie, numbers = overlay.compact()
    how = replace(how, beam=16, answers=16)
    there, here = (
        search(x, ToyGenerator(VOCABULARY), keys_of([(2, 3, 4), (5,)]), SEP, "spm", how) for x in (overlay, trie)
    )
    assert there.offsets.tolist() == [0, min(16, len(left)), 2 * min(16, len(left))]
    assert there.numbers.tolist() == numbers[here.numbers].tolist()
    np.testing.assert_array_equal(there.scores, here.scores)


def test_results_do_not_depend_on_the_batch() -> None:
    rows = sorted({(a, SEP, b, SEP, *c) for a in (2, 3) for b in (4, 5, 6) for c in [(), (a,), (a, b)]})
    questions = [(2,), (3, 4, 5), (), (6, 6, 6, 6), (2, 5)]
    how = SearchSettings(beam=3, answers=2, scoring="masked", look_ahead="predicate", linked=3, overlap=1.0)
    whole = searched(rows, questions, "spm", how)
    for batch in (1, 2):
        part = searched(rows, questions, "spm", replace(how, batch=batch))
        assert part.numbers.tolist() == whole.numbers.tolist()
        np.testing.assert_array_equal(part.scores, whole.scores)


@pytest.mark.parametrize("scoring", ["renormalised", "masked"])
def test_length_power_ranks_what_the_beam_found(scoring: str) -> None:
    rows = sorted({(2, SEP, 3, SEP), (2, SEP, 3, SEP, 4, 4, 4, 4), (5, SEP, SEP), (5, SEP, 6, SEP, 2)})
    how = SearchSettings(beam=4, answers=4, scoring=scoring)  # type: ignore[arg-type]
    raw = searched(rows, [(2,), (3,), (4,)], "spm", how)
    np.testing.assert_array_equal(raw.normalized, raw.scores)
    for answers in (1, 4):
        ranked = searched(rows, [(2,), (3,), (4,)], "spm", replace(how, length_power=1.0, answers=answers))
        np.testing.assert_allclose(ranked.normalized, ranked.scores / ranked.lengths)
        for q in range(3):
            expected = sorted(raw.scores[span(raw, q)] / raw.lengths[span(raw, q)])[::-1][:answers]
            np.testing.assert_allclose(ranked.normalized[span(ranked, q)], expected)


def in_common(sequence: Row, question: Row, order: Order) -> int:
    """What a key gains by: the whole subject as a span, and the predicate's LCS with what is beside that."""
    first, second = sequence.index(SEP), sequence.index(SEP, sequence.index(SEP) + 1)
    subject, middle, last = sequence[:first], sequence[first + 1 : second], sequence[second + 1 : -1]
    predicate = middle if order == "spm" else last
    for at in range(len(question) - len(subject) + 1):
        if question[at : at + len(subject)] == subject:
            rest = (*question[:at], SEP, *question[at + len(subject) :])
            return len(subject) + lcs(predicate, rest)
    return lcs(predicate, question)


@settings(max_examples=60, deadline=None)
@given(rows=KEYS, questions=st.lists(QUESTION, min_size=1, max_size=3), order=ORDER, how=SETTINGS)
def test_overlap_ranks_what_the_beam_and_linking_found(
    rows: list[Row], questions: list[Row], order: Order, how: SearchSettings
) -> None:
    how = replace(how, overlap=1.5)
    found = searched(rows, questions, order, how)
    for q, question in enumerate(questions):
        staying = linked_sequences(rows, question, how)
        kept = oracle_of(rows, order, how).beam_search(toy_logits(question), question, how.beam, staying)
        gained = {said: score + 1.5 * in_common(said, question, order) for score, said in kept}
        expected = sorted(gained.values(), reverse=True)[: how.answers]
        np.testing.assert_allclose(found.normalized[span(found, q)], expected, atol=1e-6)
        for number, score, ranked in zip(
            found.numbers[span(found, q)], found.scores[span(found, q)], found.normalized[span(found, q)], strict=True
        ):
            assert ranked == pytest.approx(gained[*rows[number], SEP], abs=1e-6)
            assert ranked - score == pytest.approx(1.5 * in_common((*rows[number], SEP), question, order))


def test_of_equal_scores_the_first_child_wins() -> None:
    rows = [(token, SEP, SEP) for token in (2, 3, 4, 5)]
    found = searched(rows, [(2,)], "spm", SearchSettings(beam=3, answers=3), scale=0.0)
    assert found.numbers.tolist() == [0, 1, 2]


def test_answers_do_not_depend_on_how_many_are_wanted() -> None:
    rows = sorted({(a, SEP, b, SEP, c) for a in (2, 3) for b in (4, 5, 6) for c in (2, 3)})
    many = searched(rows, [(2,), (3, 4)], "spm", SearchSettings(beam=5, answers=5))
    one = searched(rows, [(2,), (3, 4)], "spm", SearchSettings(beam=5, answers=1))
    assert one.numbers.tolist() == many.numbers[many.offsets[:-1]].tolist()


def test_an_empty_trie_and_no_questions() -> None:
    nothing = searched([], [(2,), ()], "spm", SearchSettings())
    assert nothing.offsets.tolist() == [0, 0, 0]
    assert searched([(1, 1)], [], "spm", SearchSettings()).offsets.tolist() == [0]


def test_parts_that_are_too_wide_are_counted() -> None:
    rows = sorted({(2, SEP, b, SEP, c) for b in (4, 5, 6) for c in (2, 3)} | {(3, SEP, 4, SEP, c) for c in (2, 3)})
    how = SearchSettings(beam=8, answers=8, look_ahead="predicate-meaning", look_ahead_limit=2)
    assert searched(rows, [(2,), (3,)], "spm", how).without_look_ahead.tolist() == [1, 1]
    assert searched(rows, [(2,)], "spm", replace(how, look_ahead_limit=6)).without_look_ahead.tolist() == [0]


def test_sources_are_questions_with_a_separator() -> None:
    questions = keys_of([(2, 3), (), (4,)])
    ended = with_separator(Keys(questions.tokens, questions.starts[1:]), SEP)
    assert [ended[i].tolist() for i in range(2)] == [[SEP], [4, SEP]]


class Broken(ToyGenerator):
    def begin(self, sources: Keys):  # type: ignore[no-untyped-def]
        decoding = super().begin(sources)
        decoding.logits = lambda rows, tokens: np.full(len(rows), np.nan, np.float32)  # type: ignore[method-assign]
        return decoding


def test_what_is_refused() -> None:
    trie: Automaton = built([(1, 1), (2, 1, 1)])
    with pytest.raises(FatalError, match="not numbers"):
        search(trie, Broken(VOCABULARY), keys_of([()]), SEP, "spm", SearchSettings())
    with pytest.raises(DataError, match="a model of 6 tokens and a trie of 7"):
        search(trie, ToyGenerator(6), keys_of([()]), SEP, "spm", SearchSettings())
    with pytest.raises(ConfigError, match="order = 'psm'"):
        search(trie, ToyGenerator(VOCABULARY), keys_of([()]), SEP, "psm", SearchSettings())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beam": 0}, "beam = 0"),
        ({"beam": 2, "answers": 3}, "answers = 3"),
        ({"scoring": "mask"}, "did you mean 'masked'"),
        ({"look_ahead": "predicates"}, "did you mean 'predicate'"),
        ({"length_power": -1.0}, "length_power = -1.0"),
        ({"batch": True}, "batch = True"),
        ({"linked": -1}, "linked = -1"),
        ({"overlap": float("nan")}, "overlap = nan"),
    ],
)
def test_settings_that_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        SearchSettings(**changes)  # type: ignore[arg-type]
