"""Word pieces of a graph: a name has the same ones wherever it stands, and there is no text without tokens."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.models.graph import Graph, GraphTokenizer, normalize

NAMES = ["new york", "york", "newport (wales)", "port-au-prince", "san josé", "józefów", "東京", "st. john's"]


def pieces(vocabulary: int = 320) -> GraphTokenizer:
    return GraphTokenizer.pieces([normalize(sorted(NAMES * 3))], vocabulary)


def test_a_name_has_the_same_pieces_alone_and_in_a_question() -> None:
    made = pieces()
    for name in NAMES:
        alone = made.encode([name])[0].tolist()
        for question in (f"where is {name}?", f"({name})", f"{name}: population", f"is it '{name}', or not"):
            inside = made.encode([question])[0].tolist()
            assert any(inside[at : at + len(alone)] == alone for at in range(len(inside))), (name, question)


def test_frequent_words_become_few_tokens_and_others_are_spelled() -> None:
    made = pieces()
    assert made.vocabulary <= 320
    assert len(made.encode(["york"])[0]) < len("york")
    for text in ("🜁", "ωμέγα", "[SEP]", "[PAD]x", "a\x00b", "<0x41>"):
        tokens = made.encode([text])[0].tolist()
        assert tokens
        assert made.separator not in tokens
        assert made.decode(tokens).replace(" ", "") == text


@settings(max_examples=100, deadline=None)
@given(st.text(min_size=1))
def test_no_text_is_without_tokens(text: str) -> None:
    normal = normalize([text])[0].as_py()
    tokens = MADE.encode([normal])[0].tolist()
    assert bool(tokens) == bool(normal)
    assert MADE.decode(tokens).replace(" ", "") == normal.replace(" ", "")


MADE = pieces()


def test_the_same_strings_give_the_same_tokenizer() -> None:
    assert pieces().digest == pieces().digest


def test_a_graph_in_pieces_has_every_fact() -> None:
    triples = [(name, f"rel {i % 3}", f"o{i}") for i, name in enumerate(NAMES)]
    triples += [("st.john's", "rel 1", "close"), ("st. john's", "rel 1", "apart")]
    graph = Graph.of(triples, tokenizer=pieces())
    for subject, predicate, value in triples:
        (found,) = graph.facts(graph.find([subject], [predicate], [""]))
        assert value in {one for fact in found for one in fact.objects if fact.subject == subject}
    one, other = graph.find(["st.john's", "st. john's"], ["rel 1"] * 2, [""] * 2)
    assert one == other  # one key, two spellings


def test_too_few() -> None:
    with pytest.raises(ConfigError, match="more than 258"):
        GraphTokenizer.pieces([pa.array(["a"])], 258)
