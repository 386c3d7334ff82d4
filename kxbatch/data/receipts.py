"""Receipts: the proof that a unit of work is done, and of what it was done from.

A unit publishes its file first and its receipt last. A reader trusts receipts, never listings: a file without a receipt does not
exist. A unit is done when its receipt carries the fingerprint that the unit has now; the *ingredients* behind the
fingerprint tell why it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from pydantic import TypeAdapter, ValidationError

from kxbatch.data.storage import Folder
from kxbatch.spec.fingerprint import fingerprint

BOOKKEEPING = "_kxbatch"


@dataclass(frozen=True)
class Receipt:
    """What one unit of work read, wrote and set aside; `peak_rss` is the most memory its worker ever held so far, in bytes."""

    phase: str
    key: str
    ingredients: dict[str, str]
    file: str
    bytes: int
    digest: str
    rows_in: int
    rows_out: int
    quarantined: int
    quarantine_digest: str
    counters: dict[str, float]
    run: str
    token: int
    attempt: int
    host: str
    worker: str
    started: str
    seconds: float
    peak_rss: int

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the ingredients."""
        return fingerprint(self.ingredients)


def receipt_name(phase: str, key: str) -> str:
    """Name of a receipt inside a stage's folder."""
    return f"{BOOKKEEPING}/receipts/{phase}/{key}.json"


def write_receipt(stage: Folder, receipt: Receipt) -> None:
    """Publish a receipt; from here on the unit is done."""
    stage.publish_json(receipt_name(receipt.phase, receipt.key), asdict(receipt))


def read_receipts(stage: Folder, phase: str) -> dict[str, Receipt]:
    """All receipts of a phase, by unit key. A damaged one proves nothing, so it counts as none: its unit is done again."""
    found = {key: load_receipt(data) for key, data in raw_receipts(stage, phase)}
    return {key: receipt for key, receipt in found.items() if receipt is not None}


def raw_receipts(stage: Folder, phase: str) -> Iterator[tuple[str, bytes]]:
    """The receipts of a phase as they lie there: unit key and bytes."""
    folder = stage.child(BOOKKEEPING, "receipts", phase)
    names = folder.names(".json")
    for name, data in zip(names, folder.read_all(names), strict=True):
        if data is not None:
            yield name.removesuffix(".json"), data


def read_receipt(stage: Folder, phase: str, key: str) -> Receipt | None:
    """One receipt, None where there is none or it is damaged."""
    try:
        return load_receipt(stage.read(receipt_name(phase, key)))
    except FileNotFoundError:
        return None


def load_receipt(data: bytes) -> Receipt | None:
    """A receipt from its bytes, None where they are none: other types, or a file that is not its own."""
    try:
        receipt = _RECEIPT.validate_json(data, strict=True)
    except ValidationError:
        return None
    file = PurePosixPath(receipt.file)
    own = file.stem == receipt.key and not file.is_absolute() and ".." not in file.parts
    return receipt if own else None


_RECEIPT = TypeAdapter(Receipt)
