"""Facts added to and deleted from a graph without building it again.

A change names a key by its strings, in any spelling; what it deletes must be there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.trie import Keys, Overlay, find, sort_keys
from kxbatch.models.graph.checking import WORDS, find_faults
from kxbatch.models.graph.facts import Row
from kxbatch.models.graph.triples import COLUMNS

Rows = tuple[Row, ...]


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        change: what is done.
        subject: of the key.
        predicate: of the key.
        meaning: of the key; may be empty.
        object: what is said; None, to delete: all of them, the key is gone.
    """

    change: Literal["add", "delete"]
    subject: str
    predicate: str
    meaning: str = ""
    object: str | None = None

    def fault(self) -> str | None:
        """Why it cannot be a fact, in words; None where it can."""
        parts = {
            "subject": self.subject,
            "predicate": self.predicate,
            "meaning": self.meaning,
            "object": self.object or "-",
        }
        for name, text in parts.items():
            if text.encode("utf-8", "ignore").decode() != text:
                return f"the {name} {text!r} is no Unicode text"
        if self.change == "add" and not self.object:
            return f"{self.subject} / {self.predicate} is to be added without an object"
        found = find_faults([pa.array([part], pa.large_string()) for part in (parts[name] for name in COLUMNS)], "")
        return f"the {found[0].column} {parts[found[0].column]!r} {WORDS[found[0].error]}" if found else None

    def to_json(self) -> str:
        """As one line, without its end."""
        return json.dumps(asdict(self), ensure_ascii=False)


class Missing(ConfigError):
    """A change deletes what is not there.

    Attributes:
        change: which one.
        is_there: whether its key is, and says other things.
    """

    def __init__(self, change: Change, message: str, *, is_there: bool) -> None:
        super().__init__(message)
        self.change, self.is_there = change, is_there


@dataclass(frozen=True, eq=False)
class Applied:
    """What changes came to.

    Attributes:
        trie: with the keys there are now.
        rows: sorted rows of keys that were touched and are there, by number.
    """

    trie: Overlay
    rows: dict[int, Rows]


def apply(
    trie: Overlay, keys: Keys, rows_of: Mapping[int, Rows], changes: Sequence[Change], *, refuse: bool
) -> Applied:
    """Apply changes in their order; none of them, if one cannot be.

    Args:
        trie: with the keys there are.
        keys: of the changes, one each.
        rows_of: rows of every key of the changes that is there, by number.
        changes: what is to be done.
        refuse: to delete what is not there; else that does nothing.

    Raises:
        Missing: what is to be deleted is not there.
    """
    distinct, of_change = sort_keys(keys)
    numbers = find(trie, distinct)
    held = [set(rows_of[number]) if number >= 0 else set() for number in numbers.tolist()]
    for change, key in zip(changes, of_change.tolist(), strict=True):
        held[key] = _changed(held[key], change, refuse=refuse)
    there = np.array([bool(rows) for rows in held], np.bool_)
    after, new = trie.add(distinct.take(np.flatnonzero(there & (numbers < 0))))
    numbers[there & (numbers < 0)] = new
    after, _ = after.delete(distinct.take(np.flatnonzero(~there & (numbers >= 0))))
    return Applied(after, {n: tuple(sorted(rows)) for n, rows in zip(numbers.tolist(), held, strict=True) if rows})


def _changed(rows: set[Row], change: Change, *, refuse: bool) -> set[Row]:
    if change.change == "add":
        if change.object is None:
            raise ConfigError(str(change.fault()))
        return rows | {Row(change.subject, change.predicate, change.meaning, change.object)}
    gone = {row for row in rows if change.object in (None, row.object)}
    if refuse and not gone:
        raise Missing(change, _words(change, rows), is_there=bool(rows))
    return rows - gone


def _words(change: Change, rows: set[Row]) -> str:
    key = " / ".join(part for part in (change.subject, change.predicate, change.meaning) if part)
    if not rows:
        return f"no fact {key} in the graph"
    objects = sorted({row.object for row in rows})
    shown = ", ".join(objects[:5]) + (", ..." if len(objects) > 5 else "")
    return f"{key} does not say {change.object!r}, it says: {shown}{nearest(str(change.object), objects)}"


def read_change(values: Mapping[str, Any]) -> Change:
    """A change from JSON values.

    Raises:
        ValueError: they are none.
    """
    names = ("change", "subject", "predicate", "meaning", "object")
    change = Change(**{name: values[name] for name in names})
    texts = (change.subject, change.predicate, change.meaning, *(() if change.object is None else (change.object,)))
    if change.change not in ("add", "delete") or not all(isinstance(text, str) for text in texts):
        raise ValueError("not what a change is")
    if fault := change.fault():
        raise ValueError(fault)
    return change
