"""Rows of several groups in one state: what parts them, and at most so many of each.

A state has, besides arrays with one entry a row, `keys` (hashes of the ids), `group` (each row's place among the groups) and
`groups` (their settings, as JSON).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays

GROUPS = "groups"
Settings = dict[str, Any]


def grouped(table: pa.Table, by: Sequence[str], rows: Arrays, most: int) -> Arrays:
    """The state of a table.

    Args:
        table: has the columns that part groups.
        by: these columns; without any, all rows are one group.
        rows: arrays with an entry for each row, `keys` among them.
        most: rows kept of a group: those with the smallest keys.
    """
    settings = list(zip(*(table.column(name).to_pylist() for name in by), strict=True)) if by else [()] * len(table)
    different = list(dict.fromkeys(settings))
    places = {one: place for place, one in enumerate(different)}
    state = rows | {"group": np.array([places[one] for one in settings], np.int64)}
    return _pruned(state, most) | {GROUPS: _packed([dict(zip(by, one, strict=True)) for one in different])}


def together(a: Arrays, b: Arrays, most: int) -> Arrays:
    """The state of the rows of two."""
    if not len(a["keys"]) or not len(b["keys"]):
        return a if len(a["keys"]) else b
    groups, others = read_groups(a), read_groups(b)
    groups += [settings for settings in others if settings not in groups]
    places = np.array([groups.index(settings) for settings in others], np.int64)
    b = b | {"group": places[b["group"]]}
    both = {name: np.concatenate([a[name], b[name]]) for name in a if name != GROUPS}
    return _pruned(both, most) | {GROUPS: _packed(groups)}


def read_groups(state: Arrays) -> list[Settings]:
    """Settings of the groups, by their places."""
    found: list[Settings] = json.loads(bytes(state[GROUPS]))
    return found


def _pruned(state: Arrays, most: int) -> Arrays:
    """In the order of groups and keys."""
    order = np.lexsort((state["keys"], state["group"]))
    group = state["group"][order]
    place = np.arange(len(group)) - np.searchsorted(group, group)
    kept = order[place < most]
    return {name: array[kept] for name, array in state.items()}


def _packed(groups: list[Settings]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(groups).encode(), np.uint8)
