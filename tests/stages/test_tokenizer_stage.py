"""The tokenizer stage: what it learns does not depend on shards, and every text comes back as it went in."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from kxbatch.errors import DataError
from kxbatch.models import byte_bpe
from kxbatch.models.byte_bpe import LONGEST_WORD, SPECIAL, count_words, to_json, train
from kxbatch.models.word_counts import WordCounts
from kxbatch.stages.base import Artifact, Context
from kxbatch.stages.tokenizer import TokenizerConfig, TokenizerStage

NOUNS = [
    "vector",
    "whitening",
    "spectrum",
    "neighbour",
    "l'été",
    "Straße",
    "白化向量",
    "词表",
    "векторы",
    "👩‍🔬",
    "1024",
]
TEXTS = [
    " ".join(NOUNS[i] for i in np.random.default_rng(row).integers(0, len(NOUNS), 3 + row % 9)) + "。\n" * (row % 3)
    for row in range(400)
]
CONTEXT = Context(seed=0, threads=1, gpus=0)


def stage(**config: Any) -> TokenizerStage:
    return TokenizerStage(TokenizerConfig(**({"vocabulary": 320} | config)), "text")


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})


def fitted(made: TokenizerStage, shards: list[list[str]], *, backwards: bool = False) -> Artifact:
    states = [made.fold(table(list(shard)), CONTEXT) for shard in shards]
    merged = states[0]
    for state in states[1:]:
        merged = made.merge(state, merged) if backwards else made.merge(merged, state)
    return made.fit(merged, merged, Context(0, 1, 0))


def loaded(artifact: Artifact) -> Tokenizer:
    return Tokenizer.from_str(json.dumps(artifact.documents["tokenizer.json"]))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return loaded(fitted(stage(), [TEXTS]))


@pytest.mark.parametrize("unit", ["pieces", "characters"])
def test_the_result_does_not_depend_on_shards_and_their_order(unit: str) -> None:
    whole = fitted(stage(unit=unit), [TEXTS])
    thirds = fitted(stage(unit=unit), [TEXTS[300:], TEXTS[:50], TEXTS[50:300]], backwards=True)
    singles = fitted(stage(unit=unit), [[text] for text in TEXTS[:60]] + [TEXTS[60:], []])
    assert json.dumps(whole.documents) == json.dumps(thirds.documents) == json.dumps(singles.documents)


def test_states_are_the_same_bytes_in_any_order() -> None:
    made = stage()
    one, other = made.fold(table(TEXTS[:200]), CONTEXT), made.fold(table(TEXTS[200:]), CONTEXT)
    for name, array in made.merge(one, other).items():
        np.testing.assert_array_equal(array, made.merge(other, one)[name])
        np.testing.assert_array_equal(array, made.fold(table(TEXTS), CONTEXT)[name])


def test_counts_teach_the_same_merges_as_the_texts_do() -> None:
    learned, fed = train(count_words(TEXTS, "none"), 320)
    peer = Tokenizer(models.BPE())
    peer.pre_tokenizer = learned.pre_tokenizer
    peer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=320,
            min_frequency=2,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    assert to_json(learned)["model"] == to_json(peer)["model"]
    assert learned.get_vocab_size() == 320
    assert fed.sum() == count_words(TEXTS, "none").total


def test_special_tokens_have_their_ids_and_frame_a_text(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(name) for name in ("[PAD]", "[CLS]", "[SEP]", "[MASK]")] == [0, 1, 2, 3]
    ids = tokenizer.encode("vector").ids
    assert (ids[0], ids[-1], min(ids[1:-1]) > 3) == (1, 2, True)
    assert tokenizer.encode("").ids == [1, 2]


@settings(max_examples=300, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_comes_back_as_it_went_in(tokenizer: Tokenizer, text: str) -> None:
    tokenizer.encode_special_tokens = True  # a text may speak of [MASK]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert min(ids, default=4) > 3
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_every_code_point_comes_back(tokenizer: Tokenizer) -> None:
    everything = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    for start in range(0, len(everything), 50_000):
        part = everything[start : start + 50_000]
        assert tokenizer.decode(tokenizer.encode(part, add_special_tokens=False).ids) == part


@settings(max_examples=200, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab1 中文。\n\tा\x00'-s"), max_size=80))
def test_words_are_the_text_cut_and_none_is_long(text: str) -> None:
    words = [word for word, _ in byte_bpe.splitter().pre_tokenize_str(text)]
    assert "".join(words) == text
    assert max(map(len, words), default=0) <= LONGEST_WORD + 1  # a space before it


def test_chinese_runs_are_not_words() -> None:
    characters = "白化向量词表空间谱半径"
    draws = np.random.default_rng(0).integers(0, len(characters), (500, 12))
    texts = ["".join(characters[i] for i in row) + "，" for row in draws]
    counts = count_words(texts, "none")
    assert len(counts.counts) == len(characters) + 1
    assert counts.total == 500 * 13


@pytest.mark.parametrize(
    ("normalization", "text", "same"),
    [("lower", "ＡBC Straße", "abc straße"), ("nfkc", "ﬁne ①", "fine 1")],
)
def test_normalisation_joins_spellings(normalization: str, text: str, same: str) -> None:
    made = loaded(fitted(stage(normalization=normalization), [TEXTS]))
    assert made.encode(text).ids == made.encode(same).ids
    plain = loaded(fitted(stage(), [TEXTS]))
    assert plain.encode(text).ids != plain.encode(same).ids


def test_large_counts_are_scaled_down_and_teach_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    words = count_words(TEXTS, "none")
    many = WordCounts(words.words, words.counts * 1000)
    exact, _ = train(words, 300, min_frequency=1)
    monkeypatch.setattr(byte_bpe, "FED_WORDS", words.total)
    scaled, fed = train(many, 300, min_frequency=1)
    np.testing.assert_array_equal(fed, words.counts)
    assert to_json(scaled) == to_json(exact)


@settings(max_examples=100, deadline=None)
@given(counts=st.lists(st.integers(1, 10**9), min_size=1, max_size=50), limit=st.integers(1, 10**6))
def test_sampled_counts_are_within_one_of_their_share(counts: list[int], limit: int) -> None:
    words = WordCounts.of({str(i): count for i, count in enumerate(counts)})
    sampled = words.sampled(limit)
    total = sum(counts)
    assert sampled.sum() == min(total, limit)
    np.testing.assert_array_less(np.abs(sampled - words.counts * (min(1, limit / total))), 1.001)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(st.text(max_size=5), max_size=20), more=st.lists(st.text(max_size=5), max_size=20))
def test_counts_equal_those_of_a_dictionary(texts: list[str], more: list[str]) -> None:
    one, other = WordCounts.of(Counter(texts)), WordCounts.of(Counter(more))
    merged = WordCounts.from_arrays(WordCounts.from_arrays(one.to_arrays()).merged(other).to_arrays())
    found = {word.decode(): count for word, count in zip(merged.words.to_pylist(), merged.counts, strict=True)}
    assert found == Counter(texts + more)
    assert list(merged.words.to_pylist()) == sorted(merged.words.to_pylist())


def test_drift_is_the_total_variation_distance() -> None:
    made = stage()
    a, b = made.fold(table(["a a a b"]), CONTEXT), made.fold(table(["a b b b c"]), CONTEXT)
    # words: 'a' 1/4 ' a' 2/4 ' b' 1/4 against 'a' 1/5 ' b' 3/5 ' c' 1/5
    assert made.drift(a, b) == pytest.approx((0.05 + 0.5 + 0.35 + 0.2) / 2)
    assert made.drift(a, a) == 0
    assert made.fit(a, b, Context(0, 1, 0)).documents["vocabulary.json"]["drift"] == pytest.approx(0.55)


def test_rows_without_text_count_nothing_and_a_column_of_them_teaches_nothing() -> None:
    made = stage()
    state = made.fold(table([None, "", " \n"]), CONTEXT)
    assert len(state["counts"]) == 0
    with pytest.raises(DataError, match="no row has a text"):
        made.fit(state, state, Context(0, 1, 0))


def test_facts_are_true() -> None:
    artifact = fitted(stage(), [TEXTS])
    facts, tokenizer = artifact.documents["vocabulary.json"], loaded(artifact)
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False).ids) for text in TEXTS)
    assert facts["characters_per_token"] == pytest.approx(sum(map(len, TEXTS)) / tokens)
    assert facts["vocabulary"] == 320


def test_characters_are_counted_as_the_pieces_are() -> None:
    artifact = fitted(stage(unit="characters"), [TEXTS])
    facts = artifact.documents["vocabulary.json"]
    letters = {c for text in TEXTS for c in text}
    assert set(loaded(artifact).get_vocab()) >= letters
    assert facts["vocabulary"] == 260 + len(letters)
    assert facts["characters_per_token"] == 1


def test_what_decides_counts_and_what_decides_merges() -> None:
    assert stage().semantic("fold") == stage(vocabulary=500, refit="always", min_frequency=9).semantic("fold")
    assert stage().semantic("fold") != stage(normalization="nfkc").semantic("fold")
    assert stage().semantic("map") == stage(refit="always", max_drift=0.5).semantic("map")
    assert stage().semantic("map") != stage(vocabulary=500).semantic("map")
    assert stage().semantic("map") != stage(unit="characters").semantic("map")
    assert stage().semantic("fold") == stage(unit="characters").semantic("fold")
    assert "unit" not in stage().semantic("map")  # or tokenizers from before there were units were fitted again


@pytest.mark.parametrize("unit", ["pieces", "characters"])
def test_transformers_reads_it(tmp_path: Any, unit: str) -> None:
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
    artifact = fitted(stage(unit=unit), [TEXTS])
    for name, document in artifact.documents.items():
        (tmp_path / name).write_text(json.dumps(document))
    read = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (read.pad_token_id, read.mask_token_id) == (0, 3)
    assert read("vector 词表")["input_ids"] == loaded(artifact).encode("vector 词表").ids
