"""Answers held against what the questions ask for, one question at a time.

A fact is right if subject, predicate, object and, where it is known, meaning are. Of a fact with several objects the first one
is compared; of several gold objects the one it matches best.

Letters: N questions, H answers of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kxbatch.engine.graph_answers import Found
from kxbatch.engine.questions import Questions
from kxbatch.models.graph.graph import Fact
from kxbatch.models.retrieval.metrics import Match, all_parts, match

Booleans = NDArray[np.bool_]
Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

PARTS = ("subject", "predicate", "meaning", "object")
OUTCOMES = ("right", *(f"wrong {part}" for part in PARTS), "no key", "nothing")


@dataclass(frozen=True, eq=False)
class Judged:
    """How good the answers to N questions are.

    Attributes:
        parts: of the first answer: subject, predicate, meaning and object, each [N], and "all" of these together. The meaning of a
            question that does not say it is as right as any, and is left out of the F1 of all.
        right: bool [N], whether the first answer is.
        ranks: int64 [N], place of the first right answer from 0 on, -1 for none.
        outcomes: int64 [N], places in `OUTCOMES`: the first part that is wrong; "no key" for a sequence that the graph
            does not have, "nothing" where there is no answer.
        scores: float64 [N], of the first answer; -inf without one, NaN where answers have no scores.
    """

    parts: dict[str, Match]
    right: Booleans
    ranks: Numbers
    outcomes: Numbers
    scores: Floats


def judge(found: Found, questions: Questions) -> Judged:
    """Compares answers with gold facts."""
    size = len(questions)
    counts = np.diff(found.offsets)
    question_of = np.repeat(np.arange(size), counts)
    every = _matches(found.facts, questions, question_of)
    some = counts > 0
    place = np.full(size, len(found.facts))  # one behind the last: no answer
    place[some] = found.offsets[:-1][some]
    first = {name: _at(one, place) for name, one in every.items()}
    asked = all_parts([first[name] for name in ("subject", "predicate", "object")])
    parts = first | {"all": Match(_exact(first), asked.f1)}
    right = np.append(_exact(every), False)
    return Judged(
        parts,
        right[place],
        _ranks(right[:-1], question_of, found.offsets),
        _outcomes(found, first, place),
        _scores(found, place),
    )


def _matches(facts: Sequence[Fact | None], questions: Questions, question_of: Numbers) -> dict[str, Match]:
    """Each part of H answers."""
    of = question_of.tolist()
    given = {name: [None if fact is None else getattr(fact, name) for fact in facts] for name in PARTS[:3]}
    given["object"] = [None if fact is None else fact.objects[0] for fact in facts]
    meanings = [questions.meanings[q] for q in of]
    wanted = {
        "subject": [[questions.subjects[q]] for q in of],
        "predicate": [[questions.predicates[q]] for q in of],
        "meaning": [[told or "" if m is None else m] for m, told in zip(meanings, given["meaning"], strict=True)],
        "object": [questions.objects[q] for q in of],
    }
    return {name: match(given[name], wanted[name]) for name in PARTS}


def _at(one: Match, places: Numbers) -> Match:
    """Of some answers; the place behind the last one stands for none."""
    return Match(np.append(one.exact, False)[places], np.append(one.f1, 0.0)[places])


def _exact(parts: dict[str, Match]) -> Booleans:
    return np.asarray(np.logical_and.reduce([parts[name].exact for name in PARTS]))


def _ranks(right: Booleans, question_of: Numbers, offsets: Numbers) -> Numbers:
    ranks = np.full(len(offsets) - 1, -1)
    places = np.flatnonzero(right)[::-1]  # the first one is written last
    ranks[question_of[places]] = places - offsets[question_of[places]]
    return ranks


def _outcomes(found: Found, first: dict[str, Match], place: Numbers) -> Numbers:
    outcomes = np.zeros(len(place), np.int64)
    for number in range(len(PARTS), 0, -1):  # the first wrong part has the last word
        outcomes[~first[PARTS[number - 1]].exact] = number
    keys = np.array([*(fact is not None for fact in found.facts), True], dtype=bool)
    outcomes[~keys[place]] = OUTCOMES.index("no key")
    outcomes[place == len(found.facts)] = OUTCOMES.index("nothing")
    return outcomes


def _scores(found: Found, place: Numbers) -> Floats:
    none = np.nan if len(found.scores) and np.isnan(found.scores).all() else -np.inf
    return np.append(found.scores, none)[place]
