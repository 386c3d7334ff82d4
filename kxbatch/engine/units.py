"""Units of work: what is to be done once, and how to tell whether it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from kxbatch.data.receipts import Receipt
from kxbatch.data.storage import Folder
from kxbatch.spec.fingerprint import fingerprint

State = Literal["done", "pending", "stale"]


@dataclass(frozen=True)
class Unit:
    """One idempotent piece of work.

    Attributes:
        phase: folder of its receipts: `map`, `fold`, `pairs`, `lists`.
        key: name of its receipt and stem of its file.
        file: what it publishes, inside the stage's folder.
        ingredients: everything that decides the result, by name; their fingerprint is the unit's.
        task: what a worker needs to know to do it, as JSON values.
        rows: rows it reads, for plans and progress.
        bytes: bytes it reads, for plans.
        replaces: whether a receipt of an earlier run is there, which must go before the file changes.
    """

    phase: str
    key: str
    file: str
    ingredients: Mapping[str, str]
    task: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 0
    bytes: int = 0
    replaces: bool = False

    @cached_property
    def fingerprint(self) -> str:
        """Fingerprint of the ingredients."""
        return fingerprint(dict(self.ingredients))


@dataclass(frozen=True)
class Judged:
    """A unit, whether it is done, and if not, why."""

    unit: Unit
    state: State
    reason: str = ""


def judge(units: Sequence[Unit], receipts: Mapping[str, Receipt], folder: Folder, redo: frozenset[str]) -> list[Judged]:
    """Compare units with the receipts of earlier runs.

    Args:
        units: what should exist.
        receipts: what earlier runs proved.
        folder: the stage's folder; a receipt whose file is gone or has another size proves nothing.
        redo: keys to do again whatever their receipt says.
    """
    sizes = _sizes(units, receipts, folder)
    return [_judge(unit, receipts.get(unit.key), sizes, unit.key in redo) for unit in units]


def _sizes(units: Sequence[Unit], receipts: Mapping[str, Receipt], folder: Folder) -> dict[str, int]:
    """Sizes of the files that receipts speak of, from one listing of each folder instead of a look at each file."""
    files = [receipts[unit.key].file for unit in units if unit.key in receipts]
    sizes: dict[str, int] = {}
    for parent in sorted({file.rpartition("/")[0] for file in files}):
        listed = folder.child(*parent.split("/")).listing().files if parent else folder.listing().files
        sizes |= {f"{parent}/{name}" if parent else name: size for name, size in listed.items()}
    return sizes


def _judge(unit: Unit, receipt: Receipt | None, sizes: Mapping[str, int], redo: bool) -> Judged:
    if receipt is None:
        return Judged(unit, "pending", "new")
    if receipt.fingerprint != unit.fingerprint:
        changed = sorted(
            name
            for name in receipt.ingredients.keys() | unit.ingredients.keys()
            if receipt.ingredients.get(name) != unit.ingredients.get(name)
        )
        return Judged(unit, "stale", f"{', '.join(changed)} changed")
    if redo:
        return Judged(unit, "stale", "asked for, or found defective by verify")
    size = sizes.get(receipt.file)
    if size != receipt.bytes:
        found = "its file is gone" if size is None else f"its file has {size} bytes instead of {receipt.bytes}"
        return Judged(unit, "stale", found)
    return Judged(unit, "done")


def part_file(key: str) -> str:
    """Where a map unit publishes."""
    return f"{key}.parquet"


def state_file(phase: str, key: str) -> str:
    """Where the units of the other phases publish."""
    return f"_kxbatch/state/{phase}/{key}.safetensors"
