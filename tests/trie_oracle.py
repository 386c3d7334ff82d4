"""A trie of dictionaries, walked in step with the one under test."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from kxbatch.kernels.trie import Automaton, Keys, Trie, find, longest_prefix, sort_keys

Row = tuple[int, ...]
VOCABULARY = 7


def listed(keys: Keys) -> list[Row]:
    return [tuple(keys[i].tolist()) for i in range(len(keys))]


def keys_of(rows: Iterable[Row], vocabulary: int = VOCABULARY) -> Keys:
    return Keys.of(list(rows), vocabulary)


def built(rows: Iterable[Row], vocabulary: int = VOCABULARY) -> Trie:
    return Trie.build(sort_keys(keys_of(rows, vocabulary))[0], vocabulary)


def of_dictionaries(numbers: dict[Row, int]) -> dict[int, dict]:
    """A node maps tokens to nodes, and -1 to the number of the key that ends there."""
    root: dict[int, dict] = {}
    for row, number in numbers.items():
        node = root
        for token in row:
            node = node.setdefault(token, {})
        node[-1] = number  # type: ignore[assignment]
    return root


def below(node: dict[int, dict], said: Row = ()) -> dict[Row, int]:
    found: dict[Row, int] = {}
    for token, child in node.items():
        found.update({said: child} if token == -1 else below(child, (*said, token)))  # type: ignore[dict-item]
    return found


def assert_equal(trie: Automaton, numbers: dict[Row, int]) -> None:
    """Walks all prefixes level by level, and asks every question of every one of them.

    Args:
        trie: under test.
        numbers: the keys it should hold, with their numbers.
    """
    nodes, states = [of_dictionaries(numbers)], trie.start(1)
    assert len(trie) == len(numbers)
    while nodes:
        assert_answers(trie, nodes, states)
        allowed = trie.allowed(states)
        children = [[node[token] for token in sorted(node) if token >= 0] for node in nodes]
        nodes, states = [child for family in children for child in family], allowed.states
    assert find(trie, keys_of(numbers)).tolist() == list(numbers.values())


def assert_answers(trie: Automaton, nodes: list[dict[int, dict]], states: np.ndarray) -> None:
    allowed, size = trie.allowed(states), len(nodes)
    expected = [sorted(token for token in node if token >= 0) for node in nodes]
    assert [x.tolist() for x in np.split(allowed.tokens, allowed.offsets[1:-1])] == expected
    assert allowed.offsets[0] == 0
    assert trie.terminal(states).tolist() == [node.get(-1, -1) for node in nodes]
    reachable = [below(node) for node in nodes]
    assert trie.count(states).tolist() == [len(keys) for keys in reachable]
    for token in range(-1, VOCABULARY + 1):
        after = trie.advance(states, np.full(size, token))
        dead = np.array([token not in tokens for tokens in expected])
        assert (after[dead] == -1).all()
        assert (after[~dead] == allowed.states[allowed.tokens == token]).all()
    nowhere = np.full_like(states, -1)
    assert len(trie.allowed(nowhere).tokens) == trie.count(nowhere).sum() == 0
    assert (trie.terminal(nowhere) == -1).all()
    assert (trie.advance(nowhere, np.zeros(size, np.int64)) == -1).all()
    for limit in (0, 2, 1000):
        found = trie.completions(states, limit)
        assert np.diff(found.offsets).tolist() == [min(limit, len(keys)) for keys in reachable]
        said = listed(found.keys)
        for b, keys in enumerate(reachable):
            span = range(found.offsets[b], found.offsets[b + 1])
            assert all(keys[said[a]] == found.numbers[a] for a in span)
            assert len({said[a] for a in span}) == len(span)


def assert_prefixes(trie: Automaton, numbers: dict[Row, int], questions: list[Row]) -> None:
    """Longest prefixes, by looking at every key."""
    found = longest_prefix(trie, keys_of(questions))
    for i, question in enumerate(questions):
        begun = [n for n in range(len(question) + 1) if any(row[:n] == question[:n] for row in numbers)]
        whole = [n for n in range(len(question) + 1) if question[:n] in numbers]
        assert found.depth[i] == max(begun, default=0)
        assert found.length[i] == max(whole, default=-1)
        assert found.number[i] == (numbers[question[: max(whole)]] if whole else -1)
        assert trie.count(found.states[i : i + 1])[0] == sum(
            row[: found.depth[i]] == question[: found.depth[i]] for row in numbers
        )
