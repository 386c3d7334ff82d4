"""Spans from tags: what BIO, IOB1, BIOES and BMES say about the tokens of a sentence.

A tag is `O`, or a letter, a hyphen and a type: `B-LOC`. B begins a span, I or M goes on with it, E ends it, S is a span of one
token. The schemes need no name, for no letter means different things in two of them, with one exception that is seen in each
sentence: where E or S occurs, a span that B begins must be ended by E; elsewhere it ends where it is not continued.

A tag that goes on with nothing (I, M or E at the beginning, after O, after the end of a span or after another type) begins a
span. That is how IOB1 is meant, and how BIO with a missing B is read by everybody since conlleval (Tjong Kim Sang and
Buchholz, 2000).
"""

from __future__ import annotations

from collections.abc import Sequence

from kxbatch.data.sources.lines import Fault
from kxbatch.data.spans import Span

OUTSIDE = "O"
_CONTINUES, _ENDS = "IME", "ES"
_PREFIXES = tuple(f"{letter}-" for letter in "BIMES")


def spans_of_tags(tags: Sequence[str]) -> list[Span] | Fault:
    """The spans of one sentence.

    Args:
        tags: one a token.

    Returns:
        (start, end, type) in tokens, end exclusive, in order; or why the tags say nothing.
    """
    must_end = any(tag[:2] in ("E-", "S-") for tag in tags)
    spans: list[Span] = []
    start, type_ = -1, ""  # of the open span; -1: none is open
    for index, tag in enumerate(tags):
        if tag == OUTSIDE and start < 0:
            continue
        if not is_tag(tag):
            return _odd(tag, index)
        letter, _, name = tag.partition("-")
        goes_on = start >= 0 and letter in _CONTINUES and name == type_
        if start >= 0 and not goes_on:
            if must_end:
                return _not_ended(type_, start, tag)
            spans.append((start, index, type_))
            start = -1
        if tag != OUTSIDE and not goes_on:
            start, type_ = index, name
        if letter in _ENDS:
            spans.append((start, index + 1, type_))
            start = -1
    if start >= 0:
        if must_end:
            return _not_ended(type_, start, "the end of the sentence")
        spans.append((start, len(tags), type_))
    return spans


def is_tag(word: str) -> bool:
    """Whether a word is a tag of any of the schemes."""
    return word == OUTSIDE or (word[:2] in _PREFIXES and len(word) > 2)


def _odd(tag: str, index: int) -> Fault:
    return Fault(
        "malformed-tags", f"'{tag}' of token {index} is no tag; tags are O, and B-, I-, M-, E- or S- with a type"
    )


def _not_ended(type_: str, start: int, after: str) -> Fault:
    return Fault(
        "malformed-tags",
        f"the span {type_} that begins at token {start} is followed by {after} before a tag E-{type_} ended it; "
        "the sentence has tags E or S, so its spans of several tokens end with E",
    )
