"""A vocabulary of characters and bytes: any text in any script goes in and comes out.

To the library `tokenizers` it is byte-pair encoding without a merge and with byte fallback, so that it is read by whatever reads a
`tokenizer.json`. Here its texts are looked up in a table instead, which is hundreds of times as fast, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import ConfigError
from kxbatch.kernels.characters import encode_characters
from kxbatch.kernels.trie import Keys, token_dtype

PAD, SEP = 0, 1
SPECIAL = ("[PAD]", "[SEP]")
SMALLEST = len(SPECIAL) + 256
CODE_POINTS = 0x110000


def build(counts: NDArray[np.int64], vocabulary: int) -> Any:
    """The tokenizer: special tokens, bytes, then characters by falling frequency, equally frequent ones by code point.

    Args:
        counts: int64 [CODE_POINTS], of each character.
        vocabulary: tokens at most.

    Raises:
        ConfigError: too few for the bytes, or the library is not there.
    """
    if vocabulary < SMALLEST:
        raise ConfigError(
            f"a vocabulary of {vocabulary} tokens; at least {SMALLEST} are needed, {SMALLEST - 256} special ones and 256 bytes"
        )
    try:
        from tokenizers import Tokenizer, decoders, models
    except ImportError as error:
        raise ConfigError("a graph needs the library tokenizers; run: pip install 'kxbatch[hf]'") from error
    found = np.flatnonzero(counts)
    frequent = found[np.argsort(-counts[found], kind="stable")][: vocabulary - SMALLEST]
    tokens = [*SPECIAL, *map(byte_token, range(256)), *map(chr, frequent.tolist())]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


@dataclass(frozen=True, eq=False)
class Table:
    """What each character and byte becomes.

    Attributes:
        of_character: int32 [CODE_POINTS], its token, or -1.
        of_byte: int32 [256], its token.
    """

    of_character: NDArray[np.int32]
    of_byte: NDArray[np.int32]

    def encode(self, letters: NDArray[np.uint8], starts: NDArray[np.int64], vocabulary: int) -> Keys:
        """Tokens of UTF-8 texts in flat arrays."""
        tokens, token_starts = np.empty(len(letters), token_dtype(vocabulary)), np.empty(len(starts), np.int64)
        size = encode_characters(letters, starts, self.of_character, self.of_byte, tokens, token_starts)
        return Keys(tokens[:size].copy(), token_starts)


def table(document: Mapping[str, Any]) -> Table | None:
    """The table of a `tokenizer.json`, None where encoding is more than looking up characters and bytes."""
    model = document["model"]
    plain = model.get("type") == "BPE" and model.get("byte_fallback") and not model.get("merges")
    others = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if not plain or any(model.get(name) for name in others) or document["normalizer"] or document["pre_tokenizer"]:
        return None
    if not all(token["special"] for token in document["added_tokens"]):
        return None
    vocab: dict[str, int] = model["vocab"]
    bytes_ = [vocab.get(byte_token(value), -1) for value in range(256)]
    if min(bytes_) < 0:
        return None
    of_character = np.full(CODE_POINTS, -1, np.int32)
    for token, number in vocab.items():
        if len(token) == 1:
            of_character[ord(token)] = number
    return Table(of_character, np.array(bytes_, np.int32))


def byte_token(value: int) -> str:
    """The token of a byte."""
    return f"<0x{value:02X}>"
