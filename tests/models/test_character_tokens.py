"""Characters as tokens: any text comes back, every border of a text is one of tokens, and masked models can use it."""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from kxbatch.models import character_tokens
from kxbatch.models.byte_bpe import SMALLEST, SPECIAL, count_words, to_json
from kxbatch.models.extraction.alignment import TokenOffsets, align, to_characters
from kxbatch.models.tokenization import SPELLINGS, FastTokenizer

TEXTS = ["北京大学在北京。", "Zürich and New York", "tab\there", "naïve naïve", "👩‍🔬 北", "हिन्दी"] * 3 + ["罕 ж"]
ODD = "北京學 aé\u0301\u0323\t\u200d👩‍🔬🇨🇳ि न् ﬁ½\u3000[MASK]<0xE4>\x00"


def trained(vocabulary: int = 400, normalization: Any = "none", min_frequency: int = 2) -> Tokenizer:
    counts = count_words(TEXTS, normalization)
    return character_tokens.train(counts, vocabulary, normalization, min_frequency)[0]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = trained()
    made.encode_special_tokens = True
    return made


def test_the_commonest_characters_have_a_token_each() -> None:
    counted = Counter("".join(TEXTS))
    frequent = sorted((c for c, n in counted.items() if n > 1), key=lambda c: (-counted[c], ord(c)))
    for vocabulary in (SMALLEST, SMALLEST + 10, 400):
        made = trained(vocabulary)
        wanted = frequent[: vocabulary - SMALLEST]
        assert made.get_vocab_size() == SMALLEST + len(wanted)
        assert [made.id_to_token(SMALLEST + i) for i in range(len(wanted))] == wanted
    assert trained(400, min_frequency=1).token_to_id("罕") is not None
    assert trained(400).token_to_id("罕") is None


@settings(deadline=None)
@given(st.text(max_size=40) | st.text(st.sampled_from(ODD), max_size=40))
def test_any_text_comes_back_and_every_span_aligns(tokenizer: Tokenizer, text: str) -> None:
    found = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(found.ids, skip_special_tokens=False) == text
    assert min(found.ids, default=4) > 3
    widths = [1 if tokenizer.token_to_id(c) is not None else len(c.encode()) for c in text]
    assert len(found.ids) == sum(widths)
    places = [i for i, width in enumerate(widths) for _ in range(width)]
    assert found.offsets == [(i, i + 1) for i in places]
    spans = [(a, b) for a in range(len(text)) for b in range(a + 1, len(text) + 1)]
    starts, ends = np.array(spans, np.int64).reshape(-1, 2).T
    rows, tokens = np.zeros(len(spans), np.int64), TokenOffsets.of([text], [found])
    aligned = align(rows, starts, ends, tokens)
    assert aligned.found.all()
    first, end, exact = to_characters(rows, aligned.starts, aligned.ends, tokens)
    assert (first == starts).all()
    assert (end == ends).all()
    assert exact.all()


@pytest.mark.parametrize("normalization", ["nfkc", "lower"])
def test_names_align_under_normalisation_too(normalization: Any) -> None:
    text = "ＡＢ社 e\u0301t\u0323 ﬁne"
    made = trained(400, normalization)
    tokens = TokenOffsets.of([text], [made.encode(text, add_special_tokens=False)])
    starts = np.array([0, 2, 4, 9])
    ends = np.array([2, 3, 8, 12])
    aligned = align(np.zeros(4, int), starts, ends, tokens)
    assert aligned.found.all()
    first, end, _ = to_characters(np.zeros(4, int), aligned.starts, aligned.ends, tokens)
    assert [text[a:b] for a, b in zip(first, end, strict=True)] == ["ＡＢ", "社", "e\u0301t\u0323", "ﬁne"]
    assert unicodedata.normalize("NFKC", "ＡＢ") == made.decode(made.encode("ＡＢ").ids).upper()


def test_masked_models_use_it_with_its_words(tmp_path: Path, tokenizer: Tokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(to_json(tokenizer)))
    fast = FastTokenizer.read(path)
    assert fast.special == {"pad": 0, "cls": 1, "sep": 2, "mask": 3}
    assert fast.vocabulary == tokenizer.get_vocab_size()
    assert fast.ordinary.min() == len(SPECIAL)
    assert fast.backend.encode("北").ids[::2] == [1, 2]
    rows, cut = fast.tokenize(["New York 北京", f"{SPELLINGS[3]} ж"], limit=None)
    assert rows.words[: rows.starts[1]].tolist() == [0] * 3 + [1] * 5 + [2] + [3] + [
        4
    ]  # letters of a word are masked together
    assert not cut.any()
    assert fast.special["mask"] not in rows.tokens
