"""Graphs in memory against dictionaries: every fact is found, nothing else is, before and after changes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.trie import Trie, sort_keys
from kxbatch.models.graph import Fact, Graph, Order, normalize
from kxbatch.models.graph.changes import Change, Missing
from kxbatch.models.graph.facts import Row
from kxbatch.models.graph.near import near_keys
from kxbatch.models.graph.triples import pack

Key = tuple[str, str, str]
Model = dict[Key, set[Row]]

SPELLINGS = st.sampled_from(["a", "A", "ａ", "ab", "a b", "中", "中国", "😀", "龘é", "x"])
ROWS = st.tuples(SPELLINGS, SPELLINGS, st.one_of(st.just(""), SPELLINGS), st.sampled_from(["1", "2", "３", ""]))
ORDERS = st.sampled_from(["spm", "smp"])


def key_of(row: Sequence[str]) -> Key:
    subject, predicate, meaning = normalize(list(row[:3])).to_pylist()
    return subject, predicate, meaning


def modelled(rows: Sequence[Sequence[str]]) -> Model:
    found: Model = defaultdict(set)
    for row in rows:
        found[key_of(row)].add(Row(*row))
    return dict(found)


def random_rows(count: int, seed: int) -> list[tuple[str, str, str, str]]:
    draw = random.Random(seed)
    letters = "abcABＡ中国图谱知识😀龘é "

    def word(most: int) -> str:
        return "".join(draw.choice(letters) for _ in range(draw.randint(1, most))).strip() or "a"

    return [(word(3), word(2), word(2) if draw.random() < 0.4 else "", word(4)) for _ in range(count)]


def assert_is(graph: Graph, model: Model) -> None:
    """All that the model has is found by its key, in the order of bytes, and the trie has no other key."""
    assert len(graph) == len(model)
    columns = [[key[i] for key in model] for i in range(3)]
    numbers = graph.find(*columns)
    assert len(set(numbers.tolist())) == len(model)
    assert (numbers >= 0).all()
    for rows, found in zip(model.values(), graph.rows(numbers), strict=True):
        assert list(found) == sorted(rows, key=lambda row: tuple(part.encode() for part in row))


@pytest.mark.parametrize("order", ["spm", "smp"])
def test_every_fact_of_a_random_graph_is_found_under_its_key(order: Order) -> None:
    rows = random_rows(3000, seed=1)
    graph, model = Graph.of(rows, order=order), modelled(rows)
    assert_is(graph, model)
    strangers = [row for row in random_rows(300, seed=2) if key_of(row) not in model]
    assert (graph.find(*([row[i] for row in strangers] for i in range(3))) == -1).all()


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=30), ORDERS, st.randoms(use_true_random=False))
def test_the_order_of_rows_changes_nothing(rows: list[tuple[str, ...]], order: Order, shuffler: random.Random) -> None:
    graph = Graph.of(rows, order=order)
    assert_is(graph, modelled(rows))
    shuffled = [*rows, rows[0]]
    shuffler.shuffle(shuffled)
    assert Graph.of(shuffled, order=order).digest == graph.digest


def test_keys_are_sorted_as_their_tokens_are_and_end_in_nothing() -> None:
    rows = random_rows(500, seed=3)
    graph = Graph.of(rows)
    keys = graph.keys_of(*([row[i] for row in rows] for i in range(3)))
    assert ((keys.tokens == graph.tokenizer.separator).sum()) == 2 * len(rows)
    rebuilt = Trie.build(sort_keys(keys)[0], graph.tokenizer.vocabulary)
    for mine, theirs in zip(graph.trie.base.arrays, rebuilt.arrays, strict=True):
        assert np.array_equal(mine, theirs)


def test_spellings_of_one_key_keep_their_own_objects() -> None:
    graph = Graph.of([("ABC", "p", "1"), ("ａｂｃ", "P", "2"), ("abc", "p", "2"), ("abc", "p", "1")])
    assert len(graph) == 1
    [facts] = graph.facts(graph.find(["Abc"], ["ｐ"], [""]))
    assert facts == [
        Fact("ABC", "p", "", ("1",)), Fact("abc", "p", "", ("1", "2")), Fact("ａｂｃ", "P", "", ("2",)),
    ]  # fmt: skip


def test_subjects_of_one_name_are_told_apart_by_their_meanings() -> None:
    rows = [("水星（行星）", "卫星", "0"), ("水星", "卫星", "?"), ("水星（行星（旧））", "卫星", "1")]
    graph = Graph.of(rows)
    assert graph.find(["水星"] * 3, ["卫星"] * 3, ["", "行星", "行星（旧）"]).min() >= 0
    assert len(Graph.of(rows, split=False)) == 3
    assert Graph.of(rows, split=False).find(["水星"], ["卫星"], ["行星"]).tolist() == [-1]


def test_questions_are_normalised_and_have_no_separator() -> None:
    graph = Graph.of([("珠穆朗玛峰", "高度", "8848")])
    asked = graph.questions(["珠穆朗玛峰的高度？", "珠穆朗玛峰的高度?", "[SEP] 😀"])
    assert asked[0].tolist() == asked[1].tolist()
    assert graph.tokenizer.separator not in asked.tokens


@pytest.mark.parametrize("size", [9, 2**22, 2**31])
def test_rows_are_packed_in_the_order_of_their_ranks(size: int) -> None:
    ranks = [np.random.default_rng(i).integers(size - 5, size, 400).astype(np.uint32) for i in range(4)]
    packed = pack(ranks, [size] * 4)
    tuples = list(zip(*(rank.tolist() for rank in ranks), strict=True))
    order = sorted(set(tuples))
    assert [sorted(set(packed.tolist())).index(value) for value in packed.tolist()] == [order.index(t) for t in tuples]


def test_an_empty_graph_is_refused() -> None:
    with pytest.raises(DataError, match="an empty graph"):
        Graph.of([])


CHANGES = st.lists(st.tuples(st.sampled_from(["add", "add", "delete", "delete key"]), ROWS), max_size=8)


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, min_size=1, max_size=8), st.lists(CHANGES, min_size=1, max_size=4), ORDERS)
def test_changes_do_what_they_do_to_a_dictionary(
    rows: list[tuple[str, ...]], batches: list[list[tuple[str, tuple[str, ...]]]], order: Order
) -> None:
    graph = Graph.of([(*row[:3], row[3] or "-") for row in rows], order=order)
    model = modelled([(*row[:3], row[3] or "-") for row in rows])
    before, everything = graph, []
    for batch in batches:
        made = [
            Change("add" if what == "add" else "delete", *row[:3], None if what == "delete key" else row[3] or "-")
            for what, row in batch
        ]
        for change in made:
            key = key_of((change.subject, change.predicate, change.meaning))
            held = model.get(key, set())
            if change.change == "add":
                held = held | {Row(change.subject, change.predicate, change.meaning, str(change.object))}
            else:
                held = {row for row in held if change.object not in (None, row.object)}
            model = {**model, key: held} if held else {other: model[other] for other in model if other != key}
        graph = graph.with_changes(made, missing="ignore")
        assert_is(graph, model)
        everything += made
    replayed = before.with_changes(everything, missing="ignore")
    assert replayed.digest == graph.digest
    assert_is(replayed, model)
    assert (graph.digest == before.digest) == (not everything)


def test_deleting_what_is_not_there_changes_nothing_and_says_what_is_near() -> None:
    graph = Graph.of([("长城", "长度", "21196"), ("长城", "高度", "8"), ("长江", "长度", "6300")])
    with pytest.raises(Missing, match="长城 / 长度 does not say '21169', it says: 21196; did you mean '21196'"):
        graph.with_changes([Change("add", "x", "y", "", "z"), Change("delete", "长城", "长度", "", "21169")])
    with pytest.raises(ConfigError, match="no fact 长城 / 宽度 in the graph"):
        graph.with_changes([Change("delete", "长城", "宽度")])
    assert graph.find(["x"], ["y"], [""]).tolist() == [-1]
    assert set(near_keys(graph, Change("delete", "长城", "宽度"))) == {"'长城 / 长度'", "'长城 / 高度'"}
    assert near_keys(graph, Change("delete", "黄河", "长度")) == []


def test_a_number_of_no_key_is_refused() -> None:
    graph = Graph.of([("a", "b", "c"), ("d", "e", "f")])
    with pytest.raises(DataError, match="key numbers 0 to 2, the graph has 0 to 1"):
        graph.facts(np.array([0, 2]))
    gone = graph.with_changes([Change("delete", "a", "b")])
    with pytest.raises(DataError, match="key number 0 is not in the graph"):
        gone.facts(np.array([1, 0]))
