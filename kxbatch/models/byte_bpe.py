"""A tokenizer that has a token for every byte: any text in any script goes in and comes out, and no token is "unknown".

Byte-pair encoding (Sennrich et al. 2016) on UTF-8 bytes (Radford et al., GPT-2, 2019), trained by the library `tokenizers` from
counts of words, so that the texts themselves are read once, wherever they lie.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from kxbatch.models.word_counts import Counts, WordCounts

Normalization = Literal["none", "nfkc", "lower"]
SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 3
SMALLEST = len(SPECIAL) + 256  # special tokens and bytes: a vocabulary without a single merge
LONGEST_WORD = (
    24  # characters; longer runs (base64, Thai, rules of dashes) are cut, else they would be words seen once each
)
FED_WORDS = 10_000_000  # words the library is given, repetitions counted; about 15 s
_WORDS_A_STRING = 8192
_SEPARATOR = "\x00"

# As GPT-2 splits, but: marks belong to letters (Hindi, Thai), numbers are cut into threes, runs have a limit, and a Han character
# is a word by itself. Chinese has no spaces: nearly every run between two commas would be a word of its own.
PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)"
    r"|\p{Han}"
    rf"| ?[\p{{L}}\p{{M}}&&[^\p{{Han}}]]{{1,{LONGEST_WORD}}}"
    r"| ?\p{N}{1,3}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]{{1,{LONGEST_WORD}}}"
    rf"|\s{{1,{LONGEST_WORD}}}(?!\S)|\s{{1,{LONGEST_WORD}}}"
)


def normalizer(normalization: Normalization) -> Any:
    """What is done to a text first; None for nothing."""
    if normalization == "none":
        return None
    nfkc = normalizers.NFKC()
    return nfkc if normalization == "nfkc" else normalizers.Sequence([nfkc, normalizers.Lowercase()])


def count_words(texts: Iterable[str], normalization: Normalization) -> WordCounts:
    """Words of texts, split as the tokenizer will split them."""
    split, normal = splitter(), normalizer(normalization)
    counted: Counter[str] = Counter()
    for text in texts:
        normalized = text if normal is None else normal.normalize_str(text)
        counted.update(word for word, _ in split.pre_tokenize_str(normalized))
    return WordCounts.of(counted)


def train(
    words: WordCounts, vocabulary: int, normalization: Normalization = "none", min_frequency: int = 2
) -> tuple[Tokenizer, Counts]:
    """Learn merges from counted words; the same counts give the same tokenizer.

    Args:
        words: as `count_words` counts them.
        vocabulary: tokens at most, special ones and bytes among them; at least `SMALLEST`.
        normalization: that the words were counted under.
        min_frequency: a pair of tokens that is rarer is not merged.

    Returns:
        The tokenizer, which puts `[CLS]` before and `[SEP]` after a text; and how often each word was counted in:
        above `FED_WORDS` words in all, counts are scaled down to that sum.
    """
    fed = words.sampled(FED_WORDS)
    tokenizer = Tokenizer(models.BPE())
    # words come joined, for the library has no way to tell it a count
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(_SEPARATOR, "removed"), _bytes()])
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=min_frequency,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_strings(words, fed), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([splitter(), _bytes()])
    tokenizer.decoder = decoders.ByteLevel()
    return finish(tokenizer, normalization), fed


def finish(tokenizer: Tokenizer, normalization: Normalization) -> Tokenizer:
    """Give a tokenizer its normalisation, and `[CLS]` before and `[SEP]` after a text."""
    if (normal := normalizer(normalization)) is not None:
        tokenizer.normalizer = normal
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return tokenizer


def to_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """The contents of `tokenizer.json`, without a length limit and padding."""
    found: dict[str, Any] = json.loads(tokenizer.to_str())
    return found | {"truncation": None, "padding": None}


def splitter() -> Any:
    """Cuts a normalised text into words."""
    return pre_tokenizers.Split(Regex(PATTERN), "isolated")


def _bytes() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def _strings(words: WordCounts, fed: Counts) -> Iterator[str]:
    """Every word as often as it is fed, many to a string. Words that hold the separator are left out: they stay bytes."""
    spelled = [word.decode() for word in words.words.to_pylist()]
    clean = np.array([_SEPARATOR not in word for word in spelled], np.bool_)
    places = np.repeat(np.arange(len(spelled)), np.where(clean, fed, 0))
    for start in range(0, len(places), _WORDS_A_STRING):
        yield _SEPARATOR.join([spelled[place] for place in places[start : start + _WORDS_A_STRING]])
