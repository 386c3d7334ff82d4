"""Measures of found spans: against definitions written out as loops, against seqeval, and by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics import classification_report
from seqeval.scheme import IOB2

from kxbatch.models.extraction.metrics import Measure, SpanSet, is_among, is_nested, scores, unique_spans
from kxbatch.models.extraction.span_errors import KINDS, NOBODY, judge

TYPES = 3
Span = tuple[int, int, int, int]  # text, start, end, type
SPAN = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 5), st.integers(0, TYPES - 1)).map(
    lambda span: (span[0], span[1], span[1] + span[2], span[3])
)
SPANS = st.lists(SPAN, max_size=14)


def span_set(spans: list[Span]) -> SpanSet:
    columns = np.array(spans, np.int64).reshape(-1, 4).T
    return SpanSet(*(column[unique_spans(*columns)] for column in columns))


def nested(span: Span, spans: set[Span]) -> bool:
    """The definition, read aloud."""
    others = [other for other in spans if other != span and other[0] == span[0]]
    inside = any(other[1] <= span[1] and span[2] <= other[2] for other in others)
    return inside or any(span[1] <= other[1] and other[2] <= span[2] for other in others)


@given(SPANS)
def test_spans_are_sorted_and_none_is_there_twice(spans: list[Span]) -> None:
    assert list(zip(*span_set(spans).columns, strict=True)) == sorted(set(spans))


@given(SPANS)
def test_nested_is_what_the_definition_says(spans: list[Span]) -> None:
    assert is_nested(span_set(spans)).tolist() == [nested(span, set(spans)) for span in sorted(set(spans))]


@given(SPANS, SPANS)
def test_scores_are_those_of_sets(gold: list[Span], found: list[Span]) -> None:
    wanted, given = set(gold), set(found)
    told = scores(span_set(gold), span_set(found), TYPES)
    common = len(wanted & given)
    assert told.micro == Measure(len(wanted), len(given), common, common)
    for kind in range(TYPES):
        ours, theirs = ({span for span in spans if span[3] == kind} for spans in (wanted, given))
        assert told.by_type[kind] == Measure(len(ours), len(theirs), len(ours & theirs), len(ours & theirs))
    for measure, inside in ((told.nested, True), (told.flat, False)):
        ours = {span for span in wanted if nested(span, wanted) == inside}
        theirs = {span for span in given if nested(span, given) == inside}
        assert measure == Measure(len(ours), len(theirs), len(ours & given), len(theirs & wanted))


def test_shares_and_what_is_undefined() -> None:
    assert Measure(4, 5, 2, 2).f1 == pytest.approx(2 * 2 / (4 + 5))
    assert (Measure(4, 0, 0, 0).precision, Measure(4, 0, 0, 0).recall, Measure(4, 0, 0, 0).f1) == (None, 0.0, 0.0)
    assert (Measure(0, 5, 0, 0).recall, Measure(0, 5, 0, 0).f1) == (None, 0.0)
    assert Measure(0, 0, 0, 0).f1 is None
    assert Measure(4, 2, 1, 2).f1 == pytest.approx(2 * 0.25 * 1.0 / 1.25)


def test_the_nested_subset_by_hand() -> None:
    gold = span_set([(0, 0, 4, 0), (0, 0, 2, 1), (0, 6, 8, 0), (1, 0, 3, 0), (1, 0, 3, 1)])
    found = span_set([(0, 0, 4, 0), (0, 6, 8, 0), (0, 6, 7, 1), (1, 0, 3, 1)])
    told = scores(gold, found, 2)
    # gold: all but (6, 8) are nested, and of these two are found; found: (6, 8) and (6, 7) are, and one of them is gold
    assert told.nested == Measure(gold=4, found=2, recalled=2, right=1)
    assert told.flat == Measure(gold=1, found=2, recalled=1, right=2)


def tags(rng: random.Random, length: int) -> list[str]:
    """A text of IOB2 tags."""
    found: list[str] = []
    while len(found) < length:
        kind = rng.choice("ABC")
        found += [f"B-{kind}"] + [f"I-{kind}"] * rng.randrange(3) if rng.random() < 0.5 else ["O"]
    return found[:length]


def spans_of(texts: list[list[str]]) -> list[Span]:
    found: list[Span] = []
    for row, text in enumerate(texts):
        for at, tag in enumerate(text):
            if tag[0] == "B":
                found.append((row, at, at + 1, "ABC".index(tag[2:])))
            elif tag[0] == "I":
                found[-1] = (*found[-1][:2], at + 1, found[-1][3])
    return found


def test_the_numbers_are_those_of_seqeval() -> None:
    rng = random.Random(0)
    gold = [tags(rng, rng.randrange(1, 20)) for _ in range(300)]
    found = [
        text if rng.random() < 0.5 else tags(rng, len(text)) for text in gold
    ]  # half of the texts right, half at random
    theirs = classification_report(gold, found, output_dict=True, mode="strict", scheme=IOB2, zero_division=0)
    ours = scores(span_set(spans_of(gold)), span_set(spans_of(found)), TYPES)
    measures = {"micro avg": ours.micro, **dict(zip("ABC", ours.by_type, strict=True))}
    for name, measure in measures.items():
        expected = theirs[name]
        assert measure.gold == expected["support"]
        assert measure.precision == pytest.approx(expected["precision"], abs=1e-12)
        assert measure.recall == pytest.approx(expected["recall"], abs=1e-12)
        assert measure.f1 == pytest.approx(expected["f1-score"], abs=1e-12)
    assert ours.flat == ours.micro


def slow_kinds(gold: set[Span], found: set[Span]) -> tuple[dict[Span, int], dict[Span, int]]:
    """The pairing as the module's page says it: again and again the best pair that is left."""

    def rank(one: Span, other: Span) -> tuple[int, float]:
        common = min(one[2], other[2]) - max(one[1], other[1])
        kind = 1 if one[1:3] == other[1:3] else 2 if one[3] == other[3] else 3
        return kind, -common / (one[2] - one[1] + other[2] - other[1] - common)

    ours, theirs = dict.fromkeys(gold, 5), dict.fromkeys(found, 4)
    for span in gold & found:
        ours[span] = theirs[span] = 0
    while True:
        pairs = [
            (*rank(one, other), one, other)
            for one in ours
            for other in theirs
            if ours[one] == 5 and theirs[other] == 4 and one[0] == other[0] and one[1] < other[2] and other[1] < one[2]
        ]
        if not pairs:
            return ours, theirs
        kind, _, one, other = min(pairs)
        ours[one] = theirs[other] = kind


@given(SPANS, SPANS)
def test_every_span_is_judged_once_and_by_the_rule(gold: list[Span], found: list[Span]) -> None:
    wanted, given = span_set(gold), span_set(found)
    judged = judge(wanted, given)
    ours, theirs = slow_kinds(set(gold), set(found))
    assert judged.gold.tolist() == [ours[span] for span in sorted(set(gold))]
    assert judged.found.tolist() == [theirs[span] for span in sorted(set(found))]
    counts = judged.counts()
    pairs = sum(counts[kind] for kind in KINDS[:4])
    assert pairs + counts["missed"] == len(wanted)
    assert pairs + counts["spurious"] == len(given)
    assert counts["right"] == is_among(wanted, given).sum()
    partners = judged.partners[judged.partners != NOBODY]
    assert len(set(partners.tolist())) == len(partners) == pairs
    assert (judged.gold[partners] == judged.found[judged.partners != NOBODY]).all()


def test_each_kind_of_error_by_hand() -> None:
    gold = span_set([(0, 0, 2, 0), (0, 4, 6, 0), (0, 8, 11, 0), (0, 14, 16, 1), (1, 0, 2, 0)])
    found = span_set([(0, 0, 2, 0), (0, 4, 6, 1), (0, 8, 10, 0), (0, 13, 16, 0), (2, 0, 2, 0)])
    judged = judge(gold, found)
    assert judged.counts() == dict.fromkeys(KINDS, 1)
    assert judged.partners.tolist() == [0, 1, 2, 3, NOBODY]


def test_a_wrong_type_is_paired_before_a_wrong_boundary() -> None:
    judged = judge(span_set([(0, 2, 4, 0), (0, 2, 6, 1)]), span_set([(0, 2, 4, 1)]))
    assert [KINDS[kind] for kind in judged.gold] == ["type", "missed"]
