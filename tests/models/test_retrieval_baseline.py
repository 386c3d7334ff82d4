"""Linking without training against the rule spelt out over lists, on random graphs, with and without changes on top."""

from __future__ import annotations

import numpy as np
import pytest
from trie_oracle import Row, built, keys_of

from kxbatch.kernels.trie import Automaton, Keys, Overlay, Trie, find, sort_keys
from kxbatch.models.retrieval.baseline import link, subject_spans

SEPARATOR = 6
Parts = tuple[Row, Row, Row]


def lcs(a: Row, b: Row) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def key(parts: Parts) -> Row:
    return (*parts[0], SEPARATOR, *parts[1], SEPARATOR, *parts[2])


def closeness(part: Row, question: Row) -> tuple[float, float, Row]:
    """Sorts the best first."""
    common = lcs(part, question)
    return -common, -common / len(part) if part else 0.0, part


def naive(graph: list[Parts], question: Row, most: int) -> list[Parts]:
    spans = [(begin, end) for begin in range(len(question)) for end in range(begin + 1, len(question) + 1)]
    spans.sort(key=lambda span: (span[0] - span[1], span[0]))
    found: list[Parts] = []
    for begin, end in spans:
        rest = (*question[:begin], SEPARATOR, *question[end:])
        below = [parts for parts in graph if parts[0] == question[begin:end] and parts not in found]
        found += sorted(below, key=lambda parts: (closeness(parts[1], rest), closeness(parts[2], rest)))
    return found[:most]


def random_part(rng: np.random.Generator, least: int, most: int) -> Row:
    return tuple(rng.integers(0, SEPARATOR, rng.integers(least, most + 1)).tolist())


def random_graph(rng: np.random.Generator, size: int) -> list[Parts]:
    """Few subjects with many facts each, some of them prefixes of others."""
    subjects = [random_part(rng, 1, 3) for _ in range(6)]
    graph = {(subjects[rng.integers(6)], random_part(rng, 0, 4), random_part(rng, 0, 3)) for _ in range(size)}
    return sorted(graph)


def numbered(trie: Automaton, graph: list[Parts]) -> dict[int, Parts]:
    return dict(zip(find(trie, keys_of(key(parts) for parts in graph)).tolist(), graph, strict=True))


def answers(trie: Automaton, graph: list[Parts], questions: list[Row], most: int) -> list[list[Parts]]:
    found, names = link(trie, keys_of(questions), SEPARATOR, most), numbered(trie, graph)
    return [[names[number] for number in part.tolist()] for part in np.split(found.numbers, found.offsets[1:-1])]


@pytest.mark.parametrize("most", [1, 3, 1000])
@pytest.mark.parametrize("seed", range(8))
def test_against_the_rule_spelt_out(seed: int, most: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, 60)
    questions = [random_part(rng, 0, 9) for _ in range(40)]
    trie = built(key(parts) for parts in graph)
    assert answers(trie, graph, questions, most) == [naive(graph, question, most) for question in questions]


@pytest.mark.parametrize("seed", range(4))
def test_added_facts_are_found_and_deleted_ones_are_not(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    before, later = random_graph(rng, 40), random_graph(rng, 40)
    gone = before[::3]
    overlay = Overlay.over(built(key(parts) for parts in before))
    overlay, _ = overlay.delete(keys_of(key(parts) for parts in gone))
    overlay, _ = overlay.add(keys_of(key(parts) for parts in later))
    graph = sorted({*before, *later} - ({*gone} - {*later}))
    questions = [random_part(rng, 0, 9) for _ in range(40)]
    assert answers(overlay, graph, questions, 5) == [naive(graph, question, 5) for question in questions]


def test_no_questions_and_no_keys() -> None:
    trie = built([key(((1,), (2,), ()))])
    assert link(trie, keys_of([]), SEPARATOR).offsets.tolist() == [0]
    assert link(trie, keys_of([(2, 3)]), SEPARATOR).offsets.tolist() == [0, 0]
    assert len(subject_spans(built([]), keys_of([(1, 2)]), SEPARATOR).length) == 0


def test_fifty_thousand_meanings_are_not_listed_before_the_predicate_is_chosen() -> None:
    many, few = (8, 9, 7, 9), (8, 9, 5, 9)  # subject 8, separator 9, predicates 7 and 5
    meanings = np.arange(50_000) + 10
    rows = np.concatenate([np.tile(many, (len(meanings), 1)), meanings[:, None]], axis=1)
    tokens = np.concatenate([rows.ravel(), few]).astype(np.uint16)
    starts = np.append(np.arange(len(rows) + 1) * 5, len(tokens))
    trie = Counted(sort_keys(Keys(tokens, starts))[0], vocabulary=60_000)
    for question, answer in (([3, 8, 5], [*few]), ([8, 7, 4321], [*many, 4321])):
        trie.met = 0
        found = link(trie, Keys.of([question], 60_000), 9)  # type: ignore[arg-type]
        assert trie.trie.keys(found.numbers)[0].tolist() == answer
        assert trie.met < 20 + (len(meanings) if 7 in question else 0)


class Counted:
    """Passes everything on, and counts the states, tokens and keys that it lists."""

    def __init__(self, keys: Keys, vocabulary: int) -> None:
        self.trie, self.met = Trie.build(keys, vocabulary), 0

    def allowed(self, states: np.ndarray) -> object:
        found = self.trie.allowed(states)
        self.met += len(states) + len(found.tokens)
        return found

    def completions(self, states: np.ndarray, limit: int) -> object:
        found = self.trie.completions(states, limit)
        self.met += len(found.numbers)
        return found

    def __getattr__(self, name: str) -> object:
        return getattr(self.trie, name)
