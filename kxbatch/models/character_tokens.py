"""A tokenizer in which every character is a token, for models that must tell where in a text something stands.

The commonest characters have a token each, the others are spelled in the bytes of their UTF-8, so any text in any script goes in
and comes out. To the library `tokenizers` it is byte-pair encoding without a merge and with byte fallback. Special tokens, their
framing of a text and the words that are masked together are those of `byte_bpe`.
"""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer, decoders, models

from kxbatch.models.byte_bpe import SPECIAL, Normalization, finish, splitter
from kxbatch.models.word_counts import Counts, WordCounts


def train(
    words: WordCounts, vocabulary: int, normalization: Normalization = "none", min_frequency: int = 2
) -> tuple[Tokenizer, Counts]:
    """Take the commonest characters of counted words; the same counts give the same tokenizer.

    Args:
        words: as `byte_bpe.count_words` counts them.
        vocabulary: tokens at most, special ones and bytes among them; at least `byte_bpe.SMALLEST`.
        normalization: that the words were counted under.
        min_frequency: a character that is rarer is spelled in bytes.

    Returns:
        As `byte_bpe.train`: the tokenizer, and how often each word was counted in, which is always.
    """
    codes, counts = _characters(words)
    room = vocabulary - len(SPECIAL) - 256
    frequent = codes[np.argsort(-counts, kind="stable")][: min(room, int((counts >= min_frequency).sum()))]
    tokens = [*SPECIAL, *(f"<0x{value:02X}>" for value in range(256)), *map(chr, frequent.tolist())]
    tokenizer = Tokenizer(
        models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[], byte_fallback=True)
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = splitter()  # cuts no character from another that would be one token: it makes the words
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return finish(tokenizer, normalization), words.counts


def _characters(words: WordCounts) -> tuple[Counts, Counts]:
    """Code points that occur, ascending, and how often."""
    spelled = [word.decode() for word in words.words.to_pylist()]
    letters = np.frombuffer("".join(spelled).encode("utf-32-le"), np.uint32).astype(np.int64)
    codes, places = np.unique(letters, return_inverse=True)
    counts = np.zeros(len(codes), np.int64)
    np.add.at(counts, places, np.repeat(words.counts, [len(word) for word in spelled]))
    return codes, counts
