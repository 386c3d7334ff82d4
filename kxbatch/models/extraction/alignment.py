"""From spans of characters to spans of tokens and back, by the offsets the tokenizer gives; no string is searched for.

A span aligns if a token begins where it begins and a token ends where it ends. Several tokens may share the offsets of one
character (its bytes, or `fi` of a ligature under NFKC): a span begins with the first and ends with the last of them.

Letters: R texts, N tokens of all texts one after another, C characters of all texts one after another, S spans. Offsets are Unicode
code points of the text as it was given, whatever the tokenizer normalises; ends are exclusive everywhere.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class TokenOffsets:
    """Where the tokens of R texts stand, special tokens left out.

    Attributes:
        starts: int32 [N], first character of each token within its text.
        ends: int32 [N], one past its last; equal to the start where a token stands for no character.
        rows: int64 [R + 1]; text r has tokens `rows[r]` to `rows[r + 1] - 1`.
    """

    starts: Ints
    ends: Ints
    rows: Longs

    @classmethod
    def of(cls, texts: Sequence[str], encodings: Sequence[Any]) -> TokenOffsets:
        """Offsets of texts that the library `tokenizers` encoded with `add_special_tokens=False`.

        Two habits of the library are undone. A token that took in the blank before a word (` world`) begins with the word, or no
        name after a blank could align; a token of nothing but blanks stays. And a letter that normalisation put together from a
        letter and marks ends after the marks, where the library's ends before them.

        Args:
            texts: R texts, as they were encoded.
            encodings: one of each.
        """
        rows = _from_lengths([len(found.ids) for found in encodings])
        flat = np.fromiter(chain.from_iterable(chain.from_iterable(found.offsets for found in encodings)), np.int64)
        first_C = _from_lengths([len(text) for text in texts])
        base_N = np.repeat(first_C[:-1], np.diff(rows))
        starts, ends = flat[::2] + base_N, flat[1::2] + base_N
        _trim(starts, ends, _which(texts, str.isspace))
        next_N = np.append(starts[1:], 0)
        filled = np.diff(rows) > 0
        next_N[rows[1:][filled] - 1] = first_C[1:][filled]
        _extend(ends, next_N, _which(texts, _is_mark))
        return cls((starts - base_N).astype(np.int32), (ends - base_N).astype(np.int32), rows)


@dataclass(frozen=True)
class Aligned:
    """Spans of tokens, one for each span of characters.

    Attributes:
        starts: int32 [S], number of the first token within its text; -1 where the span does not align.
        ends: int32 [S], one past the last; -1 likewise.
        found: bool [S], which spans align.
    """

    starts: Ints
    ends: Ints
    found: Bools


def align(rows: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any], tokens: TokenOffsets) -> Aligned:
    """The tokens of spans of characters.

    Args:
        rows: integers [S], the text of each span, 0 to R - 1.
        starts: integers [S], first character within the text.
        ends: integers [S], one past the last.
        tokens: of the R texts.
    """
    row_N = np.repeat(np.arange(len(tokens.rows) - 1), np.diff(tokens.rows))
    real = np.flatnonzero(tokens.ends > tokens.starts)  # tokens of no character are no border
    width = 1 + max(int(tokens.ends.max(initial=0)), int(np.max(starts, initial=0)), int(np.max(ends, initial=0)))
    first = _lookup(row_N[real] * width + tokens.starts[real], rows.astype(np.int64) * width + starts, real, last=False)
    last = _lookup(row_N[real] * width + tokens.ends[real], rows.astype(np.int64) * width + ends, real, last=True)
    found = (first >= 0) & (last >= first) & (np.asarray(starts) < ends)
    base = tokens.rows[rows]
    return Aligned(
        np.where(found, first - base, -1).astype(np.int32), np.where(found, last + 1 - base, -1).astype(np.int32), found
    )


def to_characters(
    rows: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any], tokens: TokenOffsets
) -> tuple[Ints, Ints, Bools]:
    """The characters of spans of tokens.

    Args:
        rows: integers [S], the text of each span.
        starts: integers [S], number of the first token within the text.
        ends: integers [S], one past the last; spans are not empty.
        tokens: of the texts.

    Returns:
        int32 [S] first characters; int32 [S] one past the last ones; bool [S], whether `align` leads back to the same tokens. It
        does not where a span begins or ends within a character, at one of its bytes: no gold span does, and two such spans
        may be the same characters, so drop them.
    """
    base = tokens.rows[rows]
    first, end = tokens.starts[base + starts], tokens.ends[base + ends - 1]
    back = align(rows, first, end, tokens)
    return first, end, (back.starts == starts) & (back.ends == ends)


def _lookup(keys_N: Longs, wanted_S: Longs, numbers_N: Longs, *, last: bool) -> Longs:
    """int64 [S]: number of the first, or last, token with the wanted key; -1 where there is none."""
    order = np.argsort(keys_N, kind="stable")  # tokens are in order nearly always, but normalisation may swap marks
    at = np.searchsorted(keys_N, wanted_S, "right" if last else "left", sorter=order) - int(last)
    inside = (at >= 0) & (at < len(keys_N))
    found = np.full(len(wanted_S), -1, np.int64)
    candidates = order[at[inside]]
    found[inside] = np.where(keys_N[candidates] == wanted_S[inside], numbers_N[candidates], -1)
    return found


def _trim(starts_N: Longs, ends_N: Longs, blank_C: Bools) -> None:
    """Takes blanks off both sides of tokens that hold more than blanks, in place."""
    solid = np.concatenate([[0], np.cumsum(~blank_C)])
    mixed = np.flatnonzero(solid[ends_N] > solid[starts_N])
    while (moving := mixed[blank_C[starts_N[mixed]]]).size:
        starts_N[moving] += 1
    while (moving := mixed[blank_C[ends_N[mixed] - 1]]).size:
        ends_N[moving] -= 1


def _extend(ends_N: Longs, next_N: Longs, mark_C: Bools) -> None:
    """Takes marks that no token covers into the token before them, in place; `next_N` is where the next token begins."""
    moving = np.flatnonzero(ends_N < next_N)
    while moving.size:
        moving = moving[mark_C[ends_N[moving]]]
        ends_N[moving] += 1
        moving = moving[ends_N[moving] < next_N[moving]]


def _is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def _which(texts: Iterable[str], holds: Callable[[str], bool]) -> Bools:
    """Of which characters something holds, bool [C]; asked once for each character that occurs."""
    codes = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    distinct, places = np.unique(codes, return_inverse=True)
    return np.array([holds(chr(code)) for code in distinct.tolist()], np.bool_)[places]


def _from_lengths(lengths: Sequence[int]) -> Longs:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
