"""From spans of tokens to entities, with a model that says what it is told to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kxbatch.models import character_tokens
from kxbatch.models.byte_bpe import count_words
from kxbatch.models.extraction.extractor import HeadConfig
from kxbatch.models.extraction.finder import Finder, FinderSettings
from kxbatch.models.extraction.sequences import BEFORE
from kxbatch.models.extraction.token_spans import TokenSpans
from kxbatch.models.extraction.trained import TrainedExtractor
from kxbatch.models.tokenization import ROLES, FastTokenizer

Spans = list[tuple[int, int, float]]  # tokens of a text, special ones not counted, and the score


class Told(nn.Module):
    """Says the same spans of every sequence."""

    def __init__(self, spans: Spans) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.positions = None  # type: ignore[assignment]
        self.spans = spans

    def find(self, ids_BL: Tensor, *_: Any) -> TokenSpans:
        starts, ends, scores = zip(*self.spans, strict=True)
        first = [start + BEFORE for start in starts]
        return TokenSpans.of([0] * len(first), first, [end + BEFORE for end in ends], [0] * len(first), scores)


def finder(spans: Spans, **settings: Any) -> Finder:
    special = {role: number for number, role in enumerate(ROLES)}
    backend = character_tokens.train(count_words(["ab ab", "ab ab"], "none"), 400)[0]
    trained = TrainedExtractor(("A",), HeadConfig("globalpointer", 1, 2, True, True), 32, special, {})
    told: Any = Told(spans)
    tokenizer = FastTokenizer.of(backend, special, "test")
    return Finder(told, tokenizer, trained, FinderSettings(**settings), 1, "cpu", torch.float32)


@pytest.mark.parametrize("policy", ["nested", "flat"])
def test_a_span_that_ends_within_a_character_takes_no_place(policy: str) -> None:
    """`é` is two tokens here, its bytes: the surest span ends between them, and is no span of the text."""
    found = finder([(0, 3, 9.0), (0, 2, 1.0)], policy=policy).find(["abé"])
    assert (found.starts.tolist(), found.ends.tolist(), found.scores.tolist()) == ([0], [2], [1.0])
