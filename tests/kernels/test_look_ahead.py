"""Trees of completions against listing every key, and what can be gained against the dynamic programme of the textbook."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from search_oracle import lcs
from trie_oracle import Row, built, keys_of

from kxbatch.kernels.lcs import Matches
from kxbatch.kernels.trie import Automaton, Overlay
from kxbatch.kernels.trie.look_ahead import Forest, completion_forest

SEP = 1
KEYS = st.lists(st.lists(st.integers(0, 3), max_size=7).map(tuple), min_size=1, max_size=25, unique=True)
QUESTIONS = st.lists(st.lists(st.sampled_from([0, 2, 3, 6]), max_size=9).map(tuple), min_size=1, max_size=4)


def completions(rows: list[Row], said: Row) -> set[Row]:
    """What comes next, up to a separator or the end."""
    rests = [row[len(said) :] for row in rows if row[: len(said)] == said]
    return {rest[: rest.index(SEP) + 1] if SEP in rest else rest for rest in rests}


def assert_tree(forest: Forest, root: int, trie: Automaton, state: np.ndarray, texts: set[Row], question: Row) -> None:
    """Walks a tree and the trie in step."""
    pending = [((), root, state)]
    while pending:
        said, node, state = pending.pop()
        allowed = trie.allowed(state[None])
        children = range(forest.first[node], forest.first[node + 1])
        if said[-1:] == (SEP,):
            assert not len(children)
            continue
        assert len(children) == len(allowed.tokens)
        for child, token, after in zip(children, allowed.tokens.tolist(), allowed.states, strict=True):
            longer = (*said, token)
            through = [text for text in texts if text[: len(longer)] == longer]
            best = max(lcs(tuple(x for x in text if x != SEP), question) for text in through)
            assert forest.gain[child] == best - lcs(said, question)
            pending.append((longer, child, after))


@settings(max_examples=100, deadline=None)
@given(rows=KEYS, questions=QUESTIONS, gone=KEYS, limit=st.sampled_from([0, 1, 4, 1000]), data=st.data())
def test_equals_listing_the_completions(
    rows: list[Row], questions: list[Row], gone: list[Row], limit: int, data: st.DataObject
) -> None:
    overlay, _ = Overlay.over(built(rows[::2])).add(keys_of(rows[1::2]))
    overlay, _ = overlay.delete(keys_of(gone))
    left = [row for row in rows if row not in gone]
    for trie, there in ((built(rows), rows), (overlay, left)):
        roots = data.draw(st.lists(st.sampled_from([row[:n] for row in rows for n in range(len(row) + 1)]), max_size=5))
        of = np.array([data.draw(st.integers(0, len(questions) - 1)) for _ in roots], np.int64)
        states = trie.start(len(roots))
        for i, root in enumerate(roots):
            for token in root:
                states[i : i + 1] = trie.advance(states[i : i + 1], np.array([token]))
        forest = completion_forest(trie, states, of, Matches.of(keys_of(questions)), SEP, limit)
        for i, root in enumerate(roots):
            texts = completions(there, root)
            nodes = {text[:n] for text in texts for n in range(1, len(text) + 1)}
            assert forest.complete[i] == (len(nodes) <= limit)
            assert forest.gain[i] == 0
            if forest.complete[i]:
                assert_tree(forest, i, trie, states[i], texts, questions[of[i]])


def test_questions_of_several_words() -> None:
    rng = np.random.default_rng(0)
    rows = [tuple(row) for row in rng.integers(2, 4, size=(40, 150)).tolist()]
    questions = [tuple(row) for row in rng.integers(2, 5, size=(3, 200)).tolist()]
    trie = built(rows)
    forest = completion_forest(trie, trie.start(3), np.arange(3), Matches.of(keys_of(questions)), SEP, 10**6)
    for q, question in enumerate(questions):
        best = max(int(forest.gain[child]) for child in range(forest.first[q], forest.first[q + 1]))
        assert best == max(lcs(row, question) for row in rows)


def test_many_meanings_behind_a_part_cost_nothing() -> None:
    rows = [(2, SEP, 3, SEP, a, b, c) for a in range(2, 7) for b in range(7) for c in range(7)]
    trie = built(rows)
    state = trie.advance(trie.advance(trie.start(1), np.array([2])), np.array([SEP]))
    forest = completion_forest(trie, state, np.zeros(1, np.int64), Matches.of(keys_of([(3,)])), SEP, 2)
    assert forest.complete.all()
    assert forest.gain.tolist() == [0, 1, 0]


def test_no_states() -> None:
    trie = built([(2, 3)])
    forest = completion_forest(trie, trie.start(0), np.zeros(0, np.int64), Matches.of(keys_of([(3,)])), SEP, 2)
    assert forest.first.tolist() == [0]
