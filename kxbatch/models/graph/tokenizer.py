"""The tokenizer of a graph: parts of keys to tokens, none of which is the separator.

A part of a key ends where the separator stands, so no part may hold it. The tokenizer is asked for no special tokens, and
special tokens that are spelled out in a text are text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.trie import Keys, token_dtype
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.graph import character_vocabulary, piece_vocabulary
from kxbatch.models.graph.special_tokens import SpecialTokens, find_special_tokens
from kxbatch.models.graph.strings import to_flat

_BATCH = 16_384  # texts the library is given at once: it makes an object for each


@dataclass(frozen=True, eq=False)
class GraphTokenizer:
    """A tokenizer of the library `tokenizers`, with a separator.

    Attributes:
        backend: the tokenizer.
        separator: the token that ends a part; never among those of a part.
        pad: the token behind shorter sequences; the separator where there is no other.
    """

    backend: Any
    separator: int
    pad: int

    def __post_init__(self) -> None:
        self.backend.no_padding()
        self.backend.no_truncation()
        self.backend.encode_special_tokens = True

    @classmethod
    def characters(cls, counts: NDArray[np.int64], vocabulary: int) -> GraphTokenizer:
        """A token for each frequent character, and one for each byte, so that there is no text without tokens.

        Args:
            counts: int64 [0x110000], how often each code point occurs.
            vocabulary: tokens at most, 258 of which are special tokens and bytes.

        Raises:
            ConfigError: the vocabulary is smaller than that.
        """
        return cls(character_vocabulary.build(counts, vocabulary), character_vocabulary.SEP, character_vocabulary.PAD)

    @classmethod
    def pieces(cls, pools: Iterable[pa.Array], vocabulary: int) -> GraphTokenizer:
        """Word pieces, learned from distinct normalised strings; bytes for what has none.

        Args:
            pools: the strings.
            vocabulary: tokens at most, 258 of which are special tokens and bytes.

        Raises:
            ConfigError: the vocabulary is no larger than that.
        """
        return cls(piece_vocabulary.build(pools, vocabulary), character_vocabulary.SEP, character_vocabulary.PAD)

    @classmethod
    def read(cls, path: Path) -> GraphTokenizer:
        """From a `tokenizer.json`, or a folder of Hugging Face's with one.

        The separator is its `sep_token`, or else its `eos_token`, as the files beside it say, or by its spelling.

        Raises:
            ConfigError: there is none, or it has no separator.
        """
        file = path / "tokenizer.json" if path.is_dir() else path
        backend = _read(file)
        special = find_special_tokens(file.parent, backend)
        return cls.of(backend, special, str(path))

    @classmethod
    def of(cls, backend: Any, special: SpecialTokens, origin: str) -> GraphTokenizer:
        """From a tokenizer whose special tokens are known by their spelling.

        Raises:
            ConfigError: it has no separator.
        """
        if special.separator is None:
            raise ConfigError(
                f"tokenizer '{origin}' has neither a sep_token nor an eos_token, so parts of a key cannot be ended; "
                "name one in tokenizer_config.json, or use another tokenizer"
            )
        separator = backend.token_to_id(special.separator)
        pad = backend.token_to_id(special.pad) if special.pad is not None else None
        if separator is None:
            raise ConfigError(f"tokenizer '{origin}': its separator {special.separator!r} is not in its vocabulary")
        return cls(backend, separator, separator if pad is None else pad)

    @classmethod
    def from_json(cls, text: str, separator: int, pad: int) -> GraphTokenizer:
        """From what `to_json` gave.

        Raises:
            DataError: it is none, or has no such tokens.
        """
        from tokenizers import Tokenizer

        try:
            backend = Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise DataError(f"no tokenizer: {error}") from error
        for name, token in (("separator", separator), ("pad", pad)):
            if not 0 <= token < 2**32 or backend.id_to_token(token) is None:
                raise DataError(f"no tokenizer with a token {token}, which is to be its {name}")
        return cls(backend, separator, pad)

    @cached_property
    def vocabulary(self) -> int:
        """V: tokens are 0 to V - 1, as many rows an embedding needs."""
        return 1 + int(max(self.backend.get_vocab(with_added_tokens=True).values()))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its content, whatever limits on lengths it came with."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @cached_property
    def separator_text(self) -> str:
        """How the separator is spelled."""
        return str(self.backend.id_to_token(self.separator))

    @cached_property
    def unknown(self) -> int | None:
        """The token of what has no token; None for a vocabulary that has tokens for all."""
        model = self.to_json()["model"]
        token = None if self._table is not None else model.get("unk_token") or model.get("unk_id")
        found = self.backend.token_to_id(token) if isinstance(token, str) else token
        return None if model.get("byte_fallback") else found

    def spelled_in_bytes(self, counts: NDArray[np.int64]) -> int | None:
        """How many characters have no token of their own, of those that occur by `counts` [0x110000].

        None for a vocabulary of anything else than characters.
        """
        return None if self._table is None else int(np.count_nonzero((counts > 0) & (self._table.of_character < 0)))

    def to_json(self) -> dict[str, Any]:
        """The contents of `tokenizer.json`."""
        found: dict[str, Any] = json.loads(self.backend.to_str())
        return found | {"truncation": None, "padding": None}

    def for_transformers(self) -> dict[str, Any]:
        """The contents of `tokenizer_config.json`."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "sep_token": self.separator_text,
            "pad_token": str(self.backend.id_to_token(self.pad)),
            "clean_up_tokenization_spaces": False,
        }

    def encode(self, texts: Sequence[str] | pa.Array) -> Keys:
        """Tokens of texts as they are; nothing is normalised but what the tokenizer does itself.

        Args:
            texts: N texts.

        Returns:
            N token sequences without special tokens.

        Raises:
            DataError: the tokenizer makes its separator out of a text.
        """
        array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
        if self._table is not None:
            return self._table.encode(*to_flat(array), self.vocabulary)
        keys = self._encode_by_library(array)
        if (bad := np.flatnonzero(keys.tokens == self.separator)).size:
            text = array[int(np.searchsorted(keys.starts, bad[0], side="right")) - 1].as_py()
            raise DataError(
                f"the tokenizer makes its separator {self.separator_text!r} out of {text!r}; a separator ends a part of "
                "a key, so none can hold it: take it out of the text"
            )
        return keys

    def decode(self, tokens: Sequence[int] | NDArray[Any]) -> str:
        """The text of tokens, special ones left out."""
        return str(self.backend.decode([int(token) for token in tokens], skip_special_tokens=True))

    @cached_property
    def _table(self) -> character_vocabulary.Table | None:
        """What looking tokens up comes to, if nothing else is to be done; else None."""
        return character_vocabulary.table(self.to_json())

    def _encode_by_library(self, texts: pa.Array) -> Keys:
        parts, lengths = [np.empty(0, np.int64)], []
        for start in range(0, len(texts), _BATCH):
            batch = texts.slice(start, _BATCH).to_pylist()
            ids = [found.ids for found in self.backend.encode_batch_fast(batch, add_special_tokens=False)]
            lengths += [len(row) for row in ids]
            parts.append(np.fromiter((token for row in ids for token in row), np.int64))
        return Keys(np.concatenate(parts).astype(token_dtype(self.vocabulary)), starts_of(lengths))


def _read(file: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("a graph needs the library tokenizers; run: pip install 'kxbatch[hf]'") from error
    if not file.is_file():
        raise ConfigError(f"'{file}': no such file; give a tokenizer.json, or a folder that has one")
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"'{file}' is no tokenizer.json: {error}") from error
