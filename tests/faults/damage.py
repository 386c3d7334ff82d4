"""Damage on a finished output: what disks, copies and people do to files."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PART = "*/part-*.parquet"
ARTIFACT = "*/_artifact/*"
STATE = "*/_kxbatch/state/*/*"
QUARANTINE = "*/_kxbatch/quarantine/*"
RECEIPT = "*/_kxbatch/receipts/*/*.json"
PART_RECEIPT = "*/_kxbatch/receipts/map/*.json"
DOCUMENT = "**/*.json"


@dataclass(frozen=True)
class Harmed:
    """A file, relative to the output, and what was done to it."""

    file: str
    how: str


Harm = Callable[[Path, random.Random], Harmed]


def flip(pattern: str) -> Harm:
    """Change one byte of one file."""

    def do(output: Path, draw: random.Random) -> Harmed:
        path = _one_of(output, pattern, draw)
        data = bytearray(path.read_bytes())
        offset, mask = draw.randrange(len(data)), draw.randint(1, 255)
        data[offset] ^= mask
        path.write_bytes(data)
        return Harmed(str(path.relative_to(output)), f"byte {offset} xor {mask}")

    return do


def cut(pattern: str) -> Harm:
    """Cut off the end of one file."""

    def do(output: Path, draw: random.Random) -> Harmed:
        path = _one_of(output, pattern, draw)
        data = path.read_bytes()
        kept = draw.choice([0, draw.randrange(len(data)), len(data) - 2])
        path.write_bytes(data[:kept])
        return Harmed(str(path.relative_to(output)), f"{kept} of {len(data)} bytes kept")

    return do


def lose(pattern: str) -> Harm:
    """Remove one file."""

    def do(output: Path, draw: random.Random) -> Harmed:
        path = _one_of(output, pattern, draw)
        path.unlink()
        return Harmed(str(path.relative_to(output)), "removed")

    return do


def empty(pattern: str) -> Harm:
    """Leave nothing of one file, as a power cut does where nobody synced."""

    def do(output: Path, draw: random.Random) -> Harmed:
        path = _one_of(output, pattern, draw)
        path.write_bytes(b"")
        return Harmed(str(path.relative_to(output)), "emptied")

    return do


def lose_file(output: Path, draw: random.Random) -> Harmed:
    """Remove the file that a receipt speaks for."""
    receipt = _one_of(output, RECEIPT, draw)
    path = output / receipt.relative_to(output).parts[0] / json.loads(receipt.read_text())["file"]
    path.unlink()
    return Harmed(str(path.relative_to(output)), "removed")


def stray_part(output: Path, draw: random.Random) -> Harmed:
    """A part that nobody vouches for: other readers of the folder would take it for data."""
    path = _one_of(output, PART, draw)
    stray = path.with_name("part-99999.parquet")
    shutil.copy(path, stray)
    return Harmed(str(stray.relative_to(output)), "copied")


def stray_temporary(output: Path, draw: random.Random) -> Harmed:
    """What a writer leaves that dies."""
    path = _one_of(output, draw.choice([PART, RECEIPT, ARTIFACT]), draw)
    stray = path.with_name(f".tmp-{path.name}-0123abcd")
    stray.write_bytes(path.read_bytes()[: draw.randrange(100)])
    return Harmed(str(stray.relative_to(output)), "written")


def matters(output: Path, pristine: Path, file: str) -> bool:
    """Whether a damaged receipt says something else than it did, or nothing: a blank for a line's end changes nothing."""
    try:
        return bool(json.loads((output / file).read_text()) != json.loads((pristine / file).read_text()))
    except ValueError:
        return True


def _one_of(output: Path, pattern: str, draw: random.Random) -> Path:
    skipped = ("card.json",) if pattern == ARTIFACT else ()
    found = sorted(path for path in output.glob(pattern) if path.is_file() and path.name not in skipped)
    if pattern == DOCUMENT:  # artifacts and receipts have kinds of their own
        found = [path for path in found if path.name == "card.json" or not {"receipts", "_artifact"} & set(path.parts)]
    return draw.choice(found)
