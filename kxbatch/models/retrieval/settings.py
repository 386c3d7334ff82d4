"""What a search is told, and what it finds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import ConfigError, nearest

Order = Literal["spm", "smp"]
Scoring = Literal["renormalised", "masked"]
Scope = Literal["none", "predicate", "predicate-meaning"]
Numbers = NDArray[np.int64]

PARTS = 3


@dataclass(frozen=True)
class SearchSettings:
    """How keys are searched for.

    Attributes:
        beam: hypotheses kept for each question.
        answers: how many of them are returned.
        scoring: `"renormalised"`: probabilities over what the trie allows, so that those of all keys sum to 1; `"masked"`:
            those of the full softmax. Different searches, with different winners.
        look_ahead: the parts that are said with an eye on the question, never the subject.
        length_power: answers are ranked by score / tokens^power; the search itself goes by the score. 0 changes nothing.
        look_ahead_limit: parts with more nodes of completions than this are said without look-ahead.
        batch: questions decoded together.
        linked: keys that linking finds for a question (`baseline.link`) and that stay in its beam until they have a score.
        overlap: what a token that an answer shares with the question (`overlap.shared_tokens`) adds to its score when answers are
            ranked, nats; the search itself goes by the score. 0 changes nothing.

    Raises:
        ConfigError: a value is none of those allowed.
    """

    beam: int = 4
    answers: int = 1
    scoring: Scoring = "renormalised"
    look_ahead: Scope = "none"
    length_power: float = 0.0
    look_ahead_limit: int = 4096
    batch: int = 64
    linked: int = 0
    overlap: float = 0.0

    def __post_init__(self) -> None:
        for name, choices in (("scoring", get_args(Scoring)), ("look_ahead", get_args(Scope))):
            value = getattr(self, name)
            if value not in choices:
                raise ConfigError(f"{name} = {value!r}: allowed are {', '.join(choices)}{nearest(str(value), choices)}")
        for name, low in (("beam", 1), ("answers", 1), ("look_ahead_limit", 0), ("batch", 1), ("linked", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise ConfigError(f"{name} = {value!r}: a whole number, {low} or more")
        if self.answers > self.beam:
            raise ConfigError(f"answers = {self.answers}: a beam of {self.beam} holds no more than {self.beam}")
        for name in ("length_power", "overlap"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < float("inf"):
                raise ConfigError(f"{name} = {value!r}: a number, 0 or more")

    def ahead(self, order: Order) -> tuple[bool, bool, bool]:
        """Whether each part of a key in this order is said with look-ahead."""
        if order not in get_args(Order):
            raise ConfigError(f"order = {order!r}: allowed are {', '.join(get_args(Order))}")
        scope = {"none": "", "predicate": "p", "predicate-meaning": "pm"}[self.look_ahead]
        return order[0] in scope, order[1] in scope, order[2] in scope


@dataclass(frozen=True, eq=False)
class Hypotheses:
    """What was found for Q questions, best first; H in all.

    Attributes:
        offsets: int64 [Q + 1]; question q has the hypotheses `offsets[q]` to `offsets[q + 1]`.
        numbers: int64 [H], of keys.
        scores: float64 [H], log-probability of the key and the separator behind it.
        normalized: float64 [H], (score + overlap * shared tokens) / tokens^power: what they are ranked by.
        part_scores: float64 [H, 3], shares of the parts in the score, each with the separator that ends it.
        lengths: int64 [H], tokens, separators included.
        without_look_ahead: int64 [Q], parts of hypotheses that had too many completions to look ahead.
    """

    offsets: Numbers
    numbers: Numbers
    scores: NDArray[np.float64]
    normalized: NDArray[np.float64]
    part_scores: NDArray[np.float64]
    lengths: Numbers
    without_look_ahead: Numbers
