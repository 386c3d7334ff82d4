"""Damage as hypothesis strategies: to bytes, and to the structure of JSON values."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

# What readers trip over: terminators, quotes, marks of encodings, huge numbers and lengths, deep nesting.
TOKENS = [
    *[b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00" * 8, b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80"],
    *[b"\n", b"\r", b"\r\n", b'"', b'""', b"'", b"\\", b",", b"\t", b"{", b"}", b"[", b"]", b"=", b":", b"#", b"PAR1"],
    *[b"null", b"true", b"NaN", b"Infinity", b"-0", b"1e999", b"9" * 400, b"9" * 5000, b"[" * 3000, b"\\ud800"],
    "\u2028".encode(),
]  # fmt: skip

VALUES: list[Any] = [
    *[None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, 1e308, float("nan"), float("inf")],
    *["", "x", "../../x", "/etc/passwd", "\u2028", "\ud800", "part-00000", "a\nb", "a" * 5000, "\x00"],
    *[[], {}, [None], [[]], {"": None}, {"x": {}}],
]
EDITS = st.tuples(st.integers(0, 4), st.floats(0, 1), st.integers(0, 255), st.sampled_from(TOKENS))


def edited(data: bytes, edits: Sequence[tuple[int, float, int, bytes]]) -> bytes:
    """Data after edits: flip, overwrite, remove, insert, cut short."""
    found = bytearray(data)
    for how, where, byte, token in edits:
        at = int(where * len(found))
        if how == 0 and at < len(found):
            found[at] ^= 1 << byte % 8
        elif how == 1:
            found[at : at + len(token)] = token
        elif how == 2:
            del found[at : at + 1 + byte // 8]
        elif how == 3:
            found[at:at] = token
        elif how == 4 and byte < 64:
            del found[at:]
    return bytes(found)


def damaged(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of the seeds after a few edits."""
    return st.builds(edited, st.sampled_from(seeds), st.lists(EDITS, min_size=1, max_size=5))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything inside a JSON value, itself first."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in inner:
        yield from places(child, (*path, key))


def changed(value: Any, path: tuple[Any, ...], how: int, new: Any) -> Any:
    """The value with what stands at a path replaced, removed, or doubled under another key."""
    if not path:
        return new
    whole = copy.deepcopy(value)
    holder = whole
    for step in path[:-1]:
        holder = holder[step]
    if how == 0:
        holder[path[-1]] = new
    elif how == 1:
        del holder[path[-1]]
    elif isinstance(holder, dict):
        holder["unknown"] = new
    else:
        holder.append(new)
    return whole


def restructured(value: Any) -> st.SearchStrategy[Any]:
    """The value after one change of structure or type."""
    return st.builds(
        changed, st.just(value), st.sampled_from(list(places(value))), st.integers(0, 2), st.sampled_from(VALUES)
    )


def json_bytes(value: Any) -> bytes:
    """JSON text of a value; NaN and lone surrogates as other programs write them."""
    return json.dumps(value).encode()
