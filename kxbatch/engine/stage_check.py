"""Compares one stage with its receipts: files, digests, rows, columns, quarantine, patches, artifact, and what is left over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from kxbatch.data.parts import read_footer
from kxbatch.data.quarantine import quarantine_name
from kxbatch.data.receipts import BOOKKEEPING, Receipt, load_receipt, raw_receipts, receipt_name
from kxbatch.data.storage import File, Folder
from kxbatch.engine.cards import ARTIFACT, CARD, STATE, read_card
from kxbatch.engine.defects import Defect
from kxbatch.engine.phases.made import CUT, read_cut
from kxbatch.engine.phases.pairing import PATCHES, recorded_patches
from kxbatch.errors import DataError, FatalError
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.stages.base import Phase

Digests = Callable[[Sequence[File]], list[str | None]]


@dataclass(frozen=True)
class Checked:
    """What was compared in one stage.

    Attributes:
        stage: its name.
        receipts: of all phases.
        bytes: of their files.
        rows: of the parts.
        quarantined: rows set aside.
    """

    stage: str
    receipts: int
    bytes: int
    rows: int
    quarantined: int


class StageCheck:
    """Checks one stage; collects defects on the way.

    Attributes:
        defects: what is not as it should be.
        checked: what was compared.
    """

    def __init__(self, output: Folder, name: str, digests: Digests) -> None:
        self._name, self._folder, self._digests = name, output.child(name), digests
        self.defects: list[Defect] = []
        self.checked = Checked(name, 0, 0, 0, 0)

    def run(self, units: frozenset[str], phase: Phase) -> None:
        """Check everything.

        Args:
            units: units of the accounting phase that must have a receipt.
            phase: which one accounts for every row; a stage in which it is not `map` leaves an artifact and no parts.
        """
        receipts = self._receipts()
        sound = self._files(receipts)
        parts = [receipt for receipt in receipts if receipt.phase == "map"]
        self._schemas([receipt for receipt in parts if receipt.key in sound])
        accounts = [receipt for receipt in receipts if receipt.phase == phase]
        for receipt in accounts:
            self._rows(receipt)
        for key in sorted(units - {receipt.key for receipt in accounts} - {defect.key for defect in self.defects}):
            self._defect(key, receipt_name(phase, key), "the receipt is gone")
        self._orphans(parts, accounts)
        self._patches()
        self._cut()
        self._artifact(needed=bool(units) and phase != "map")
        self.checked = Checked(
            self._name,
            len(receipts),
            sum(receipt.bytes for receipt in receipts),
            sum(receipt.rows_out for receipt in parts),
            sum(receipt.quarantined for receipt in accounts),
        )

    def _defect(self, key: str, file: str, problem: str) -> None:
        self.defects.append(Defect(self._name, key, file, problem))

    def _receipts(self) -> list[Receipt]:
        found = []
        root = self._folder.child(BOOKKEEPING, "receipts")
        for phase in root.listing().folders:
            for key, data in raw_receipts(self._folder, phase):
                receipt = load_receipt(data)
                if receipt is None or (receipt.phase, receipt.key) != (phase, key):
                    self._defect(key, receipt_name(phase, key), "damaged receipt; remove it, and a run does it again")
                else:
                    found.append(receipt)
        return found

    def _files(self, receipts: Sequence[Receipt]) -> set[str]:
        """Existence, size and digest of every receipt's file; returns the keys of parts that are sound."""
        sound = set()
        digests = self._digests([self._folder.file(receipt.file) for receipt in receipts])
        for receipt, digest in zip(receipts, digests, strict=True):
            size = self._folder.size(receipt.file)
            if digest is None or size is None:
                self._defect(receipt.key, receipt.file, "the file is gone")
            elif size != receipt.bytes:
                self._defect(receipt.key, receipt.file, f"{size} bytes instead of {receipt.bytes}")
            elif digest != receipt.digest:
                self._defect(
                    receipt.key, receipt.file, f"content differs: SHA-256 {digest[:16]}... is not the receipt's"
                )
            elif receipt.phase == "map":
                sound.add(receipt.key)
        return sound

    def _schemas(self, parts: Sequence[Receipt]) -> None:
        """Parquet rows against the receipt, and columns against those that most parts have."""
        kinds: dict[str, tuple[tuple[str, pa.DataType], ...]] = {}
        for receipt in parts:
            try:
                schema, rows, _ = read_footer(self._folder.file(receipt.file))
            except DataError as error:
                self._defect(receipt.key, receipt.file, str(error))
                continue
            kinds[receipt.key] = tuple((f.name, f.type) for f in schema)
            if rows != receipt.rows_out:
                self._defect(receipt.key, receipt.file, f"{rows} rows instead of {receipt.rows_out}")
        common = Counter(kinds.values()).most_common(1)
        for receipt in parts:
            if receipt.key in kinds and kinds[receipt.key] != common[0][0]:
                odd = sorted(f"{name}: {kind}" for name, kind in set(kinds[receipt.key]) ^ set(common[0][0]))
                self._defect(receipt.key, receipt.file, f"other columns than most parts ({'; '.join(odd) or 'order'})")

    def _rows(self, receipt: Receipt) -> None:
        """Every row went through or was set aside."""
        if receipt.rows_in != receipt.rows_out + receipt.quarantined:
            words = f"{receipt.rows_in} rows in, but {receipt.rows_out} out and {receipt.quarantined} set aside"
            self._defect(receipt.key, receipt_name(receipt.phase, receipt.key), words)
        name = quarantine_name(receipt.key)
        try:
            rows = read_footer(self._folder.file(name))[1] if self._folder.exists(name) else 0
        except DataError as error:
            self._defect(receipt.key, name, str(error))
            return
        if rows != receipt.quarantined:
            self._defect(receipt.key, name, f"{rows} rows, but the receipt says {receipt.quarantined} were set aside")
        elif (self._digests([self._folder.file(name)])[0] or "") != receipt.quarantine_digest:
            self._defect(receipt.key, name, "content differs from what the receipt says")

    def _orphans(self, parts: Sequence[Receipt], accounts: Sequence[Receipt]) -> None:
        """Files that no receipt speaks for: readers of the bare folder would take them for data."""
        files = {receipt.file for receipt in parts}
        keys = {receipt.key for receipt in parts} | {defect.key for defect in self.defects}
        words = "no receipt speaks for it; remove it unless a run makes it again"
        for name in self._folder.names(".parquet"):
            if name not in files and name.removesuffix(".parquet") not in keys:
                self._defect("", name, words)
        keys |= {receipt.key for receipt in accounts}
        for name in self._folder.child(BOOKKEEPING, "quarantine").names(".parquet"):
            if name.removesuffix(".parquet") not in keys:
                self._defect("", quarantine_name(name.removesuffix(".parquet")), words)

    def _patches(self) -> None:
        """Results of the pairs phase that parts are made from."""
        mend = f"; remove {PATCHES}, and a run makes it again"
        try:
            record = recorded_patches(self._folder) or {"patches": {}}
        except FatalError:
            self._defect("", PATCHES, "damaged" + mend)
            return
        patches = list(record["patches"].values())
        digests = self._digests([self._folder.file(patch["file"]) for patch in patches])
        for patch, digest in zip(patches, digests, strict=True):
            if digest != patch["digest"]:
                self._defect("", patch["file"], ("the file is gone" if digest is None else "content differs") + mend)

    def _cut(self) -> None:
        """How the rows that a stage makes are cut into shards."""
        try:
            read_cut(self._folder)
        except FatalError as error:
            self._defect("", CUT, str(error))

    def _artifact(self, *, needed: bool) -> None:
        folder = self._folder.child(ARTIFACT)
        try:
            card = read_card(folder)
        except FatalError:
            self._defect("", f"{ARTIFACT}/{CARD}", "damaged; remove it, and a run fits the artifact anew")
            return
        if card is None:
            if needed:
                self._defect("", f"{ARTIFACT}/{CARD}", "the artifact is gone; a run makes it anew")
            return
        for name, problem in _artifact_problems(folder, card, self._digests):
            self._defect("", f"{ARTIFACT}/{name}", problem)


def _artifact_problems(folder: Folder, card: Mapping[str, Any], digests: Digests) -> Iterator[tuple[str, str]]:
    """Files of an artifact that are not as its card says."""
    expected = dict(card.get("files", {}))
    for name, digest in zip(expected, digests([folder.file(name) for name in expected]), strict=True):
        if digest != expected[name]:
            yield name, "the file is gone" if digest is None else "content differs from what the card says"
    if "fold" in card and not expected:
        arrays = [name for name in folder.names(".safetensors") if name != STATE]
        found = dict(zip(arrays, digests([folder.file(name) for name in arrays]), strict=True))
        if fingerprint(found) != card["digest"]:
            yield ", ".join(arrays) or "arrays", "content differs from what the card says"
        if not folder.exists(STATE):
            yield STATE, "the file is gone"
