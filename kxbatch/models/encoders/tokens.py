"""Texts to token ids: one flat array a shard, in chunks, so that memory stays a few bytes a token."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CHUNK_TEXTS = 1024
CHUNK_CHARS = 4_000_000
HEAD_CHARS_PER_TOKEN = 16  # a few times the usual 3 to 6, so that the head nearly always has tokens enough


@dataclass(frozen=True)
class TokenizedTexts:
    """Token ids of n texts.

    Attributes:
        ids: int32, those of all texts one after another.
        starts: int64 [n + 1]; text i has `ids[starts[i]:starts[i + 1]]`.
        truncated: bool [n], true where tokens were cut off.
    """

    ids: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    truncated: npt.NDArray[np.bool_]

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each text [n]."""
        return np.diff(self.starts)

    def padded(self, rows: npt.NDArray[np.int64], pad_id: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Ids and mask, both int64 [len(rows), longest], padded on the right."""
        lengths = self.lengths[rows]
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, pad_id, np.int64)
        ids[mask] = np.concatenate([self.ids[self.starts[row] : self.starts[row + 1]] for row in rows])
        return ids, mask.astype(np.int64)


class Tokens:
    """A fast tokenizer with a prompt and a length limit, in place of the limit and padding its file may carry.

    Attributes:
        max_length: most tokens of a text, special ones counted.
        pad_id: id to pad with.
    """

    def __init__(self, tokenizer: Any, max_length: int, prompt: str = "", *, lower_case: bool = False) -> None:
        self.pad_id = int(tokenizer.pad_token_id or 0)
        self._special = frozenset(tokenizer.all_special_ids)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_padding()
        self._backend.enable_truncation(max_length)
        if lower_case:
            self._backend.normalizer = _lower_casing(self._backend.normalizer)
        self.max_length, self._prompt = max_length, prompt

    def tokenize(self, texts: Sequence[str]) -> TokenizedTexts:
        """Tokenize texts, special tokens and prompt included, cut after `max_length` tokens."""
        ids: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32)]
        lengths, truncated = np.empty(len(texts), np.int64), np.empty(len(texts), np.bool_)
        row = 0
        for chunk in _chunks(texts):
            for encoding in self._encodings(chunk):
                found = encoding.ids
                ids.append(np.asarray(found, np.int32))
                lengths[row] = len(found)
                truncated[row] = len(found) == self.max_length and bool(encoding.overflowing)
                row += 1
        return TokenizedTexts(np.concatenate(ids), np.concatenate([[0], np.cumsum(lengths)]), truncated)

    def prompt_length(self) -> int:
        """Tokens at the start of every text that belong to the prompt or stand before it; 0 without a prompt."""
        if not self._prompt:
            return 0
        ids = self._backend.encode(self._prompt).ids
        return len(ids) - (1 if ids and ids[-1] in self._special else 0)

    def _encodings(self, texts: Sequence[str]) -> list[Any]:
        prompted = [self._prompt + text for text in texts]
        heads = [head(text, self.max_length) for text in prompted]
        encodings: list[Any] = self._backend.encode_batch_fast(heads)
        for i, (text, start) in enumerate(zip(prompted, heads, strict=True)):
            if len(start) < len(text) and not encodings[i].overflowing:
                encodings[i] = self._backend.encode(text)
        return encodings


def head(text: str, tokens: int) -> str:
    """The beginning of a very long text, cut at a space, so that the tokens that are kept stay as they were."""
    limit = tokens * HEAD_CHARS_PER_TOKEN
    if len(text) <= limit:
        return text
    cut = text.rfind(" ", 0, limit)
    return text[:cut] if cut > 0 else text


def _lower_casing(normalizer: Any) -> Any:
    """Lower-casing, then what the tokenizer did before."""
    from tokenizers import normalizers

    lower = normalizers.Lowercase()
    return lower if normalizer is None else normalizers.Sequence([lower, normalizer])


def set_tokenizer_threads(threads: int) -> None:
    """Threads of the tokenizers library; its pool takes the number at its first use in the process."""
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if threads > 1 else "false"
    os.environ["RAYON_NUM_THREADS"] = str(threads)


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Runs of texts, bounded in number and in characters; a longer text is a run of its own."""
    start, chars = 0, 0
    for i, text in enumerate(texts):
        if i > start and (i - start == CHUNK_TEXTS or chars + len(text) > CHUNK_CHARS):
            yield texts[start:i]
            start, chars = i, 0
        chars += len(text)
    if start < len(texts):
        yield texts[start:]
