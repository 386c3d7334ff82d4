"""A fast tokenizer for models that are trained here: texts to rows of tokens with their words, no special tokens among them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.errors import ConfigError
from kxbatch.models.encoders import EncoderSettings, hub
from kxbatch.models.encoders.folders import ModelFolder
from kxbatch.models.encoders.tokens import head
from kxbatch.models.masking import Ints, TokenRows, joined_words
from kxbatch.models.segmenter import Segmenter

ROLES = ("pad", "cls", "sep", "mask")
SPELLINGS = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")  # of the tokenizer stage, and of BERT
FRAME = 2  # special tokens of a sequence


@dataclass(frozen=True)
class FastTokenizer:
    """A tokenizer of the library `tokenizers`, and its special tokens.

    Special tokens that are spelled out in a text are text.

    Attributes:
        backend: the tokenizer.
        special: ids of `pad`, `cls`, `sep`, `mask`.
        all_special_ids: ids of all special tokens.
    """

    backend: Any
    special: dict[str, int]
    all_special_ids: tuple[int, ...]

    @classmethod
    def of(cls, backend: Any, special: dict[str, int], origin: str) -> FastTokenizer:
        """Check and set up a tokenizer.

        Raises:
            ConfigError: it frames a text with anything but one token before and one after it.
        """
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        framed = backend.encode("a").ids
        if (framed[0], framed[-1], len(framed) - FRAME) != (
            special["cls"], special["sep"], len(backend.encode("a", add_special_tokens=False).ids),
        ):  # fmt: skip
            raise ConfigError(
                f"tokenizer '{origin}': it makes {backend.encode('a').tokens} of 'a'; supported are tokenizers that put one token "
                "before a text and one after it, as BERT does"
            )
        added = backend.get_added_tokens_decoder()
        others = [number for number, token in added.items() if token.special]
        return cls(backend, special, tuple(sorted({*special.values(), *others})))

    @classmethod
    def read(cls, path: Path) -> FastTokenizer:
        """From a `tokenizer.json` with the special tokens in `SPELLINGS`.

        Raises:
            ConfigError: the file is none.
        """
        tokenizer = _read(path)
        ids = [tokenizer.token_to_id(token) for token in SPELLINGS]
        if None in ids:
            missing = ", ".join(token for token, found in zip(SPELLINGS, ids, strict=True) if found is None)
            raise ConfigError(f"'{path}': no token {missing}; a masked model needs {', '.join(SPELLINGS)}")
        return cls.of(tokenizer, dict(zip(ROLES, ids, strict=True)), str(path))

    @classmethod
    def read_with(cls, path: Path, special: dict[str, int]) -> FastTokenizer:
        """From a `tokenizer.json` whose special tokens are known.

        Raises:
            ConfigError: the file is none.
        """
        return cls.of(_read(path), special, str(path))

    @property
    def vocabulary(self) -> int:
        """Rows an embedding needs."""
        return 1 + int(max(self.backend.get_vocab(with_added_tokens=True).values()))

    @property
    def ordinary(self) -> Ints:
        """Ids of all tokens that are not special, ascending."""
        ids = set(self.backend.get_vocab(with_added_tokens=True).values()) - set(self.all_special_ids)
        return np.array(sorted(ids), np.int32)

    @property
    def pad_token_id(self) -> int:
        """As transformers calls it."""
        return self.special["pad"]

    @property
    def backend_tokenizer(self) -> Any:
        """As transformers calls it."""
        return self.backend

    def to_json(self) -> dict[str, Any]:
        """The contents of `tokenizer.json`."""
        found: dict[str, Any] = json.loads(self.backend.to_str())
        return found | {"truncation": None, "padding": None}

    def tokenize(
        self, texts: Sequence[str], limit: int | None = None, segmenter: Segmenter | None = None
    ) -> tuple[TokenRows, npt.NDArray[np.bool_]]:
        """Tokens of texts.

        Args:
            texts: R texts.
            limit: tokens of a text that are kept; None for all.
            segmenter: joins tokens to words of Chinese.

        Returns:
            Their tokens; bool [R], which texts were cut.
        """
        heads = [text if limit is None else head(text, limit) for text in texts]
        encodings = self.backend.encode_batch(heads, add_special_tokens=False)  # encode_batch_fast gives no words
        ids, words, cut = [np.empty(0, np.int32)], [np.empty(0, np.int32)], np.zeros(len(texts), np.bool_)
        for i, (text, start) in enumerate(zip(texts, heads, strict=True)):
            found = encodings[i]
            if limit is not None and len(start) < len(text) and len(found.ids) <= limit:
                start, found = text, self.backend.encode(text, add_special_tokens=False)
            tokens, numbers = np.asarray(found.ids, np.int32), _words(found)
            if segmenter is not None:
                offsets = np.asarray(found.offsets, np.int64).reshape(-1, 2)
                numbers = joined_words(numbers, offsets, segmenter(start))
            cut[i] = limit is not None and len(tokens) > limit
            ids.append(tokens[:limit])
            words.append(numbers[:limit])
        starts = np.cumsum([len(row) for row in ids])
        return TokenRows(np.concatenate(ids), np.concatenate(words), starts), cut


def to_columns(rows: TokenRows) -> dict[str, pa.Array]:
    """`tokens` and `words` as Arrow lists of int32."""
    starts = pa.array(rows.starts.astype(np.int32))
    return {
        "tokens": pa.ListArray.from_arrays(starts, pa.array(rows.tokens)),
        "words": pa.ListArray.from_arrays(starts, pa.array(rows.words)),
    }


def from_columns(table: pa.Table) -> TokenRows:
    """What `to_columns` gave, whatever was taken from it since."""
    tokens, words = (table.column(name).combine_chunks() for name in ("tokens", "words"))
    lengths = tokens.value_lengths().to_numpy(zero_copy_only=False)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenRows(tokens.flatten().to_numpy(), words.flatten().to_numpy(), starts)


def load_tokenizer(reference: str, *, offline: bool) -> FastTokenizer:
    """The tokenizer that a file, a folder or a hub id names.

    Raises:
        ConfigError: there is none, or it cannot be used for masked models.
    """
    path = Path(reference).expanduser()
    if path.is_file():
        return FastTokenizer.read(path)
    ours = path / "tokenizer.json"
    if ours.is_file() and all(_read(ours).token_to_id(token) is not None for token in SPELLINGS):
        return FastTokenizer.read(ours)
    folder = path if path.is_dir() else hub.snapshot(reference, offline=offline)
    return _of_transformers(folder, offline=offline)


def _of_transformers(folder: Path, *, offline: bool) -> FastTokenizer:
    from kxbatch.models.encoders import loading

    found = loading.load_tokenizer(ModelFolder(folder, folder), EncoderSettings(str(folder), offline=offline))
    ids = {role: getattr(found, f"{role}_token_id") for role in ROLES}
    missing = [f"{role}_token" for role, number in ids.items() if number is None]
    if missing:
        raise ConfigError(f"tokenizer '{folder}' has no {', '.join(missing)}, which a masked model needs")
    return FastTokenizer.of(found.backend_tokenizer, {role: int(ids[role]) for role in ROLES}, str(folder))


def _read(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ConfigError("a tokenizer needs the library tokenizers; run: pip install 'kxbatch[hf]'") from error
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing narrower
        raise ConfigError(f"'{path}' is no tokenizer.json: {error}") from error


def _words(encoding: Any) -> Ints:
    """Words of tokens; a token of no word is one by itself."""
    numbers = encoding.word_ids
    if None not in numbers:
        return np.asarray(numbers, np.int32)
    starts = [i == 0 or number is None or number != numbers[i - 1] for i, number in enumerate(numbers)]
    return np.cumsum(starts, dtype=np.int32)
