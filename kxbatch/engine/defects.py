"""Defects that `verify` found, on record until a run has mended them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from pydantic import TypeAdapter

from kxbatch.data.documents import Document, read_document
from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import Folder

NAME = f"{BOOKKEEPING}/defects.json"


@dataclass(frozen=True)
class Defect:
    """One thing that is not as its receipt says.

    Attributes:
        stage: folder of the stage.
        key: unit to do again, empty where there is none.
        file: what is wrong, inside the stage's folder.
        problem: how, in words.
    """

    stage: str
    key: str
    file: str
    problem: str


class _Entry(Document):
    stage: str
    key: str
    file: str
    problem: str


_SHAPE = TypeAdapter(list[_Entry])
_MEND = "remove it, and `kxbatch verify` finds them again"


def save_defects(output: Folder, defects: Sequence[Defect]) -> None:
    """Put defects on record; none clears it."""
    if defects:
        output.publish_json(NAME, [asdict(defect) for defect in defects])
    else:
        output.remove(NAME)


def recorded_defects(output: Folder) -> list[Defect]:
    """Every defect on record.

    Raises:
        FatalError: the record is damaged.
    """
    entries = read_document(output, NAME, _SHAPE, _MEND) or []
    return [Defect(entry["stage"], entry["key"], entry["file"], entry["problem"]) for entry in entries]


def read_defects(output: Folder) -> dict[str, frozenset[str]]:
    """Stage -> units to do again; the key '' stands for what the driver itself makes: patches and artifacts."""
    found = recorded_defects(output)
    return {d.stage: frozenset(e.key for e in found if e.stage == d.stage) for d in found}


def keep_defects(output: Folder, still: Callable[[Defect], bool]) -> None:
    """Keep what is still to be mended."""
    found = recorded_defects(output)
    kept = [defect for defect in found if still(defect)]
    if len(kept) < len(found):
        save_defects(output, kept)
