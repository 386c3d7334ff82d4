"""Spans of characters as spans of tokens: against plain loops, and on scripts where characters, bytes and tokens part ways."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from kxbatch.models.byte_bpe import Normalization, count_words, train
from kxbatch.models.extraction.alignment import TokenOffsets, align, to_characters

CORPUS = [
    "New York, the United States",
    "北京大学的张三",
    "fine café naïve",
    "हिन्दी में",
    "東京都庁",
    "🇨🇳 ok",
] * 5
ODD = "é ﬁ ½ \t한ㅏ न्दि 京 北京 👨‍👩‍👧🇨🇳 e\u0301\u0323 A\u030a \u200d x\u00a0y ＡＢ ㍿ \u3000"


@dataclass
class Encoded:
    """What `TokenOffsets.of` reads of an encoding."""

    offsets: list[tuple[int, int]]
    ids: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.ids = [0] * len(self.offsets)


@cache
def pieces(normalization: Normalization) -> Any:
    return train(count_words(CORPUS, normalization), 340, normalization)[0]


@cache
def word_pieces() -> Any:
    """As BERT does it: cleaned, stripped of accents, lower case, blanks dropped, the unknown as one token."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = ["[UNK]", *letters, *(f"##{c}" for c in letters), "北", "京", ",", "new", "##ork"]
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def offsets(texts: list[str], tokenizer: Any) -> TokenOffsets:
    return TokenOffsets.of(texts, tokenizer.encode_batch(texts, add_special_tokens=False))


def flat(spans: list[tuple[int, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rows, starts, ends = np.array(spans, np.int64).reshape(-1, 3).T
    return rows, starts, ends


def of_row(tokens: TokenOffsets, row: int) -> list[tuple[int, int]]:
    part = slice(tokens.rows[row], tokens.rows[row + 1])
    return list(zip(tokens.starts[part].tolist(), tokens.ends[part].tolist(), strict=True))


def naive(tokens: list[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """The first token that begins there and the last that ends there."""
    first = [number for number, (a, b) in enumerate(tokens) if a == start and b > a]
    last = [number for number, (a, b) in enumerate(tokens) if b == end and b > a]
    if end <= start or not first or not last or last[-1] < first[0]:
        return None
    return first[0], last[-1] + 1


TEXTS = st.lists(st.text(st.sampled_from(ODD + "New York"), max_size=12) | st.text(max_size=8), min_size=1, max_size=4)


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["none", "nfkc", "lower", "bert"]), st.data())
def test_spans_align_as_in_a_plain_loop_and_come_back(texts: list[str], kind: Any, data: st.DataObject) -> None:
    tokens = offsets(texts, word_pieces() if kind == "bert" else pieces(kind))
    row = st.integers(0, len(texts) - 1)
    spans = data.draw(st.lists(st.tuples(row, st.integers(0, 12), st.integers(0, 12)), max_size=20))
    rows, starts, ends = flat(spans)
    aligned = align(rows, starts, ends, tokens)
    for number, (r, start, end) in enumerate(spans):
        found = (int(aligned.starts[number]), int(aligned.ends[number])) if aligned.found[number] else None
        assert found == naive(of_row(tokens, r), start, end)
    good = aligned.found
    first, end, exact = to_characters(rows[good], aligned.starts[good], aligned.ends[good], tokens)
    assert exact.all()
    assert (first == starts[good]).all()
    assert (end == ends[good]).all()


@settings(deadline=None)
@given(TEXTS, st.sampled_from(["none", "nfkc", "lower", "bert"]))
def test_exact_spans_of_tokens_are_distinct_characters_of_the_text(texts: list[str], kind: Any) -> None:
    tokens = offsets(texts, word_pieces() if kind == "bert" else pieces(kind))
    counts = np.diff(tokens.rows)
    every = [(r, a, b) for r, n in enumerate(counts) for a in range(n) for b in range(a + 1, n + 1)]
    rows, starts, ends = flat(every)
    first, end, exact = to_characters(rows, starts, ends, tokens)
    kept = list(zip(rows[exact].tolist(), first[exact].tolist(), end[exact].tolist(), strict=True))
    assert len(kept) == len(set(kept))
    assert all(0 <= a < b <= len(texts[r]) for r, a, b in kept)


def aligns(text: str, surface: str, tokenizer: Any) -> bool:
    start = text.index(surface)
    rows, starts, ends = flat([(0, start, start + len(surface))])
    tokens = offsets([text], tokenizer)
    aligned = align(rows, starts, ends, tokens)
    if aligned.found[0]:
        first, end, _ = to_characters(rows, aligned.starts, aligned.ends, tokens)
        assert text[first[0] : end[0]] == surface
    return bool(aligned.found[0])


@pytest.mark.parametrize(
    ("text", "surface", "normalization", "expected"),
    [
        ("in New York", "New York", "none", True),  # ` New` holds the blank before it
        ("in  New York ", "York", "none", True),
        ("去北京大学", "北京大学", "none", True),
        ("the 👨‍👩‍👧 here", "👨‍👩‍👧", "none", True),  # eighteen bytes, five code points
        ("the 👨‍👩‍👧 here", "👩", "none", True),  # bytes of one code point belong together
        ("a\tb", "b", "none", True),
        ("x ﬁne", "ﬁne", "nfkc", True),  # `f` and `i` share the offsets of the ligature
        ("e\u0301t\u0323\u0301 x", "e\u0301t\u0323\u0301", "nfkc", True),  # put together under NFKC
        ("e\u0301t", "e\u0301", "none", True),
        (
            "\u1112\u1161\u11ab\uae00",
            "\u1112\u1161\u11ab",
            "nfkc",
            False,
        ),  # letters joined by NFKC: no marks, no border
        ("ＡＢ社", "ＡＢ", "nfkc", True),
        ("the States", "tat", "none", False),
    ],
)
def test_names_align_in_every_script(text: str, surface: str, normalization: Any, expected: bool) -> None:
    assert aligns(text, surface, pieces(normalization)) == expected


def test_names_align_under_a_tokenizer_like_berts() -> None:
    assert aligns("Zur Größe: Café, York", "Café", word_pieces())
    assert aligns("in 北京 and Québec", "北京", word_pieces())
    assert aligns("in 北京 and Que\u0301bec", "Que\u0301bec", word_pieces())
    assert not aligns("in Québec", "bec", Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]")))


def test_tokens_of_no_character_and_rows_without_tokens() -> None:
    tokens = TokenOffsets.of(["ab", "", "c d"], [Encoded([(0, 0), (0, 2)]), Encoded([]), Encoded([(0, 1), (1, 3)])])
    rows, starts, ends = flat([(0, 0, 2), (0, 0, 0), (1, 0, 1), (2, 2, 3), (2, 0, 3), (2, 0, 2)])
    aligned = align(rows, starts, ends, tokens)
    assert aligned.found.tolist() == [True, False, False, True, True, False]
    assert (aligned.starts[0], aligned.ends[0]) == (1, 2)
    first, end, exact = to_characters(np.array([0]), np.array([0]), np.array([2]), tokens)
    assert (first[0], end[0], exact[0]) == (0, 2, False)  # the empty token is no part of a name
