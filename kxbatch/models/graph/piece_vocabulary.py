"""A vocabulary of word pieces, for scripts that part words by spaces: keys are a third as long as in characters.

Byte-pair encoding (Sennrich et al. 2016) within words. Marks are words by themselves, and every word begins alike, so that a name
has the same pieces alone, in the middle of a question, and in brackets. How much white space there was is not kept. Characters
that are too rare for a token are spelled in bytes: any text goes in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from kxbatch.errors import ConfigError
from kxbatch.models.graph.character_vocabulary import SMALLEST, SPECIAL, byte_token

_BATCH = 65_536


def build(pools: Iterable[pa.Array], vocabulary: int) -> Any:
    """Learn the tokenizer; the same strings in the same order give the same one.

    Args:
        pools: distinct normalised strings.
        vocabulary: tokens at most, special ones and bytes among them.

    Raises:
        ConfigError: too few for the bytes, or the library is not there.
    """
    if vocabulary <= SMALLEST:
        raise ConfigError(
            f"pieces = {vocabulary}: more than {SMALLEST} are needed, for {SMALLEST - 256} special tokens and 256 bytes"
        )
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    except ImportError as error:
        raise ConfigError("a graph needs the library tokenizers; run: pip install 'kxbatch[hf]'") from error
    words = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="always"),
        ]
    )
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = words
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        limit_alphabet=max(1, (vocabulary - SMALLEST) // 2),
        special_tokens=[*SPECIAL, *map(byte_token, range(256))],
        show_progress=False,
    )
    learner.train_from_iterator(_batches(pools), trainer)
    learned = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learned["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=learned["vocab"], merges=merges, byte_fallback=True))
    tokenizer.add_special_tokens(list(SPECIAL))  # these alone: bytes are text
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return tokenizer


def _batches(pools: Iterable[pa.Array]) -> Iterator[list[str]]:
    for pool in pools:
        for start in range(0, len(pool), _BATCH):
            yield pool.slice(start, _BATCH).to_pylist()
