"""Spans from tags: whatever a scheme writes comes back, and what it cannot have written is read as documented or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxbatch.data.sources.lines import Fault
from kxbatch.data.sources.tagging import spans_of_tags
from kxbatch.data.spans import Span


@st.composite
def flat(draw: st.DrawFn) -> tuple[int, list[Span]]:
    """A sentence's length and disjoint spans, some of them side by side."""
    spans, at = [], 0
    for gap, width, type_ in draw(
        st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4), st.sampled_from(["PER", "LOC", "B-x"])), max_size=6)
    ):
        spans.append((at + gap, at + gap + width, type_))
        at += gap + width
    return at + draw(st.integers(0, 2)), spans


def written(scheme: str, length: int, spans: list[Span]) -> list[str]:
    """What the definitions of the schemes say."""
    tags = ["O"] * length
    for number, (start, end, type_) in enumerate(spans):
        beside = number > 0 and spans[number - 1][1:] == (start, type_)
        inner = [f"{'M' if scheme == 'BMES' else 'I'}-{type_}"] * (end - start)
        tags[start:end] = inner
        if scheme != "IOB1" or beside:
            tags[start] = f"B-{type_}"
        if scheme in ("BIOES", "BMES"):
            tags[end - 1] = f"{'E' if end - start > 1 else 'S'}-{type_}"
    return tags


@given(flat(), st.sampled_from(["BIO", "IOB1", "BIOES", "BMES"]))
def test_every_scheme_comes_back(sentence: tuple[int, list[Span]], scheme: str) -> None:
    length, spans = sentence
    assert spans_of_tags(written(scheme, length, spans)) == spans


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O I-A I-A O", [(1, 3, "A")]),
        ("B-A I-B I-B", [(0, 1, "A"), (1, 3, "B")]),
        ("I-A B-A I-A", [(0, 1, "A"), (1, 3, "A")]),
        ("M-A E-A O S-B", [(0, 2, "A"), (3, 4, "B")]),
        ("E-A E-A", [(0, 1, "A"), (1, 2, "A")]),
        ("S-A I-A E-A", [(0, 1, "A"), (1, 3, "A")]),
        ("", []),
    ],
)
def test_a_tag_that_goes_on_with_nothing_begins_a_span(tags: str, spans: list[Span]) -> None:
    assert spans_of_tags(tags.split()) == spans


@pytest.mark.parametrize(
    ("tags", "word"),
    [
        ("B-A M-A O S-B", "token 0 is followed by O before"),
        ("O B-A S-A", "followed by S-A"),
        ("S-A O B-A", "the end of the sentence"),
        ("B-A E-B", "followed by E-B"),
        ("O X-A", "'X-A' of token 1"),
        ("B O", "'B' of token 0"),
        ("B-", "'B-' of token 0"),
        ("o", "'o'"),
    ],
)
def test_tags_that_contradict_each_other_are_refused(tags: str, word: str) -> None:
    found = spans_of_tags(tags.split())
    assert isinstance(found, Fault)
    assert found.error == "malformed-tags"
    assert word in found.message
