"""Receipts: the proof that a unit of work is done, and of what it was done from.

A unit publishes its file first and its receipt last. A reader trusts receipts, never listings: a file without a receipt does not
exist. A unit is done when its receipt carries the fingerprint that the unit has now; the *ingredients* behind the
fingerprint tell why it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Annotated

import orjson
from pydantic import ConfigDict, Field, TypeAdapter

from kxbatch.data.storage import Folder
from kxbatch.spec.fingerprint import fingerprint

BOOKKEEPING = "_kxbatch"
Count = Annotated[int, Field(ge=0, lt=2**63)]
Number = Annotated[float, Field(allow_inf_nan=False)]


@dataclass(frozen=True)
class Receipt:
    """What one unit of work read, wrote and set aside; `peak_rss` is the most memory its worker ever held so far, in bytes."""

    __pydantic_config__ = ConfigDict(strict=True, extra="forbid")

    phase: str
    key: str
    ingredients: dict[str, str]
    file: str
    bytes: Count
    digest: str
    rows_in: Count
    rows_out: Count
    quarantined: Count
    quarantine_digest: str
    counters: dict[str, Number]
    run: str
    token: Count
    attempt: Count
    host: str
    worker: str
    started: str
    seconds: Number
    peak_rss: Count

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the ingredients."""
        return fingerprint(self.ingredients)


def receipt_name(phase: str, key: str) -> str:
    """Name of a receipt inside a stage's folder."""
    return f"{BOOKKEEPING}/receipts/{phase}/{key}.json"


def write_receipt(stage: Folder, receipt: Receipt) -> None:
    """Publish a receipt; from here on the unit is done. A checksum tells a receipt whose digits changed."""
    document = asdict(receipt)
    stage.publish_json(receipt_name(receipt.phase, receipt.key), document | {"checksum": fingerprint(document)})


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
    """A receipt from its bytes, None where they are none: a wrong checksum, other types, or a file that is not its own."""
    try:
        raw = orjson.loads(data)
        if not isinstance(raw, dict) or raw.pop("checksum", None) != fingerprint(raw):
            return None
        receipt = _RECEIPT.validate_json(orjson.dumps(raw))
    except (ValueError, RecursionError):  # pydantic's is one of the former
        return None
    file = PurePosixPath(receipt.file)
    own = file.stem == receipt.key and not file.is_absolute() and ".." not in file.parts
    return receipt if own else None


_RECEIPT = TypeAdapter(Receipt)
