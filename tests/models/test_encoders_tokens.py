import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_encoders import SPECIAL, word_pieces
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from kxbatch.models.encoders import tokens as tokens_module
from kxbatch.models.encoders.batches import cut_batches
from kxbatch.models.encoders.tokens import HEAD_CHARS_PER_TOKEN, Tokens

CORPUS = ["the vector space of words", "naïve spacing, 漢字 and 😀", "a b c  d\te\nf", "unbreakable " + "x" * 50] * 5
PIECES = st.lists(
    st.sampled_from(["the", " ", "  ", "vector", "\n", "漢字", "😀", "naïve", "x" * 40, ",", "é"]), max_size=400
).map("".join)


def trained(kind: str) -> Tokenizer:
    if kind == "wordpiece":
        return word_pieces()
    trainer: trainers.Trainer
    if kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=SPECIAL, unk_token="[UNK]")
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def fast(kind: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=trained(kind), pad_token="[PAD]", unk_token="[UNK]")


TOKENIZERS = {kind: fast(kind) for kind in ("wordpiece", "bpe", "unigram")}


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None, max_examples=80)
@given(texts=st.lists(PIECES, max_size=4), max_length=st.integers(3, 12))
def test_ids_are_the_first_of_the_whole_text(kind: str, texts: list[str], max_length: int) -> None:
    tokenizer = TOKENIZERS[kind]
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_truncation()
    found = Tokens(tokenizer, max_length).tokenize(texts)
    for row, text in enumerate(texts):
        inner = plain.encode(text, add_special_tokens=False).ids
        ids = found.ids[found.starts[row] : found.starts[row + 1]]
        assert ids.tolist() == [2, *inner[: max_length - 2], 3]
        assert found.truncated[row] == (len(inner) + 2 > max_length)


def test_a_text_beyond_the_head_is_read_on_where_the_head_has_too_few_tokens() -> None:
    blank = " " * (HEAD_CHARS_PER_TOKEN * 8)
    found = Tokens(TOKENIZERS["wordpiece"], 8).tokenize(["a" + blank + "the", "a " + blank + "the " * 7])
    assert found.truncated.tolist() == [False, True]
    assert found.lengths.tolist() == [4, 8]


def test_the_head_ends_between_words() -> None:
    blank, word = " " * (HEAD_CHARS_PER_TOKEN * 8 - 56), "z" * 150  # a word this long is one unknown, its start is not
    found = Tokens(TOKENIZERS["wordpiece"], 8).tokenize([blank + word])
    assert found.ids.tolist() == [2, SPECIAL.index("[UNK]"), 3]
    assert found.truncated.tolist() == [False]


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = Tokens(TOKENIZERS["wordpiece"], 12)
    texts = ["the vector " * (i % 5) for i in range(50)]
    whole = tokens.tokenize(texts)
    monkeypatch.setattr(tokens_module, "CHUNK_TEXTS", 7)
    monkeypatch.setattr(tokens_module, "CHUNK_CHARS", 60)
    pieces = tokens.tokenize(texts)
    np.testing.assert_array_equal(whole.ids, pieces.ids)
    np.testing.assert_array_equal(whole.starts, pieces.starts)
    np.testing.assert_array_equal(whole.truncated, pieces.truncated)


def test_padding_is_on_the_right_and_masked() -> None:
    found = Tokens(TOKENIZERS["wordpiece"], 12).tokenize(["the", "", "of the a"])
    ids, mask = found.padded(np.array([2, 0, 1]), pad_id=77)
    assert mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]]
    assert (ids[mask == 0] == 77).all()
    assert ids[mask == 1].tolist() == [*found.ids[5:10], *found.ids[0:3], *found.ids[3:5]]


@given(lengths=st.lists(st.integers(1, 300), max_size=60), budget=st.integers(1, 1000))
def test_batches_hold_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = cut_batches(np.array(lengths, np.int64), budget)
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    longest = [max(lengths[row] for row in batch) for batch in batches]
    assert longest == sorted(longest, reverse=True)
    for batch, length in zip(batches, longest, strict=True):
        assert len(batch) * length <= budget or len(batch) == 1
