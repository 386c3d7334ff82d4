"""Texts of graphs: normalised once and for all, parted where the page says, tokenised as the library does it."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from kxbatch.errors import ConfigError, DataError
from kxbatch.models.graph import GraphTokenizer, normalize, split_meaning
from kxbatch.models.graph.vocabulary import count_pools

ODD = [
    "",
    " ",
    "ＡＢＣ",
    "ﬁ",
    "H\u0331",
    "a\u3000 b\u2028c",
    "数据\t库",
    "😀👩‍🔬",
    "\U0002a6d5龘",
    "[SEP]",
    "<0x41>",
    "e\u0301",
    "\u0130",
]
TEXTS = st.lists(st.one_of(st.text(max_size=12), st.sampled_from(ODD)), max_size=12)


@settings(deadline=None, max_examples=150)
@given(TEXTS)
def test_a_normalised_text_normalises_to_itself_and_is_what_the_definition_says(texts: list[str]) -> None:
    found = normalize(texts).to_pylist()
    assert normalize(found).to_pylist() == found
    for text, normal in zip(texts, found, strict=True):
        assert not re.search(r"\s\s|^\s|\s$|[^\S ]", normal)
        if text.isascii():
            assert normal == " ".join(text.lower().split())
        elif normal != " ".join(text.lower().split()):  # the rest: some change that Unicode asks for
            assert unicodedata.normalize("NFKC", normal) == normal


def test_width_case_and_blanks_make_no_difference() -> None:
    assert len(set(normalize(["ＡＢＣ　ｄ", "abc  D ", "\tAbc\u2003d"]).to_pylist())) == 1
    assert normalize(pa.array([None, "A"])).to_pylist() == [None, "a"]


@pytest.mark.parametrize(
    ("subject", "named", "meaning"),
    [
        ("牛郎织女（中国著名民间故事）", "牛郎织女", "中国著名民间故事"),
        ("王后（小说（2010年）人物）", "王后", "小说（2010年）人物"),
        ("甲（乙）（丙）", "甲", "乙）（丙"),
        ("甲（乙）丙", "甲（乙）丙", ""),
        ("甲(乙)", "甲(乙)", ""),
        ("（甲）", "（甲）", ""),
        ("甲（）", "甲（）", ""),
        ("甲（乙", "甲（乙", ""),
        ("", "", ""),
    ],
)
def test_a_meaning_stands_between_the_first_opening_and_the_final_closing_bracket(
    subject: str, named: str, meaning: str
) -> None:
    found = split_meaning(pa.array(["x", subject, subject]))
    assert [part.to_pylist()[1:] for part in found] == [[named] * 2, [meaning] * 2]


def of_characters(texts: list[str], vocabulary: int = 300) -> GraphTokenizer:
    return GraphTokenizer.characters(count_pools([pa.array(texts, pa.large_string())]), vocabulary)


@settings(deadline=None, max_examples=60)
@given(TEXTS, TEXTS)
def test_looking_characters_up_gives_what_the_library_gives(known: list[str], texts: list[str]) -> None:
    tokenizer = of_characters(known, 262)
    keys = tokenizer.encode(texts)
    wanted = tokenizer.backend.encode_batch(texts, add_special_tokens=False)
    assert [keys[i].tolist() for i in range(len(keys))] == [found.ids for found in wanted]
    assert tokenizer.separator not in keys.tokens
    assert [tokenizer.decode(keys[i]) for i in range(len(keys))] == texts


def test_frequent_characters_have_tokens_and_equally_frequent_ones_come_by_code_point() -> None:
    tokenizer = of_characters(["bbb", "aa", "dc"], 261)
    vocabulary = tokenizer.backend.get_vocab()
    assert [vocabulary.get(c) for c in "bacd"] == [258, 259, 260, None]
    with pytest.raises(ConfigError, match="at least 258"):
        of_characters(["a"], 257)


def test_a_tokenizer_read_back_is_the_same_whatever_limits_it_came_with(tmp_path: Path) -> None:
    tokenizer = of_characters(["知识图谱"])
    again = Tokenizer.from_str(tokenizer.backend.to_str())
    again.enable_truncation(4)
    again.enable_padding()
    again.save(str(tmp_path / "tokenizer.json"))
    read = GraphTokenizer.read(tmp_path)
    assert (read.digest, read.separator, read.pad, read.vocabulary) == (
        tokenizer.digest, tokenizer.separator, tokenizer.pad, tokenizer.vocabulary,
    )  # fmt: skip
    assert len(read.encode(["知识图谱知识"])[0]) == 6
    assert of_characters(["知识图谱。"]).digest != tokenizer.digest


def words(*tokens: str) -> Tokenizer:
    made = Tokenizer(models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token=tokens[0]))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def test_any_tokenizer_of_the_library_will_do_and_its_files_name_the_separator(tmp_path: Path) -> None:
    backend = words("[UNK]", "a", "b", "</s>", "stop")
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    by_spelling = GraphTokenizer.read(tmp_path / "tokenizer.json")
    assert (by_spelling.separator, by_spelling.pad, by_spelling.unknown) == (3, 3, 0)
    assert [by_spelling.encode(["a b", "", "c </s>"])[i].tolist() for i in range(2)] == [[1, 2], []]
    (tmp_path / "tokenizer_config.json").write_text('{"sep_token": {"content": "stop"}, "eos_token": "</s>"}')
    tokenizer = GraphTokenizer.read(tmp_path)
    assert tokenizer.separator == 4
    with pytest.raises(DataError, match="separator 'stop' out of 'a stop'"):
        tokenizer.encode(["b", "a stop"])
    assert GraphTokenizer.read(tmp_path).digest == by_spelling.digest


def test_a_tokenizer_without_a_separator_or_without_a_file_is_refused(tmp_path: Path) -> None:
    words("[UNK]", "a").save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ConfigError, match="neither a sep_token nor an eos_token"):
        GraphTokenizer.read(tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        GraphTokenizer.read(tmp_path / "other")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"is no tokenizer\.json"):
        GraphTokenizer.read(tmp_path)


def test_an_empty_list_of_texts_has_no_tokens() -> None:
    assert len(of_characters(["a"]).encode([])) == 0
    assert np.array_equal(of_characters(["a"]).encode([""]).starts, [0, 0])
