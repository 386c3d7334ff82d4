"""An artifact as a folder on this machine: libraries that load models take nothing else."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from kxbatch.data.storage import Folder
from kxbatch.engine.cards import CARD, read_card
from kxbatch.errors import DataError


def local_copy(artifact: Folder) -> Path:
    """The artifact itself where it lies on a disk, else a copy that lives as long as this process.

    Raises:
        DataError: there is none, or a file of it is gone.
    """
    card = read_card(artifact)
    if card is None:
        raise DataError(f"{artifact.path}: no artifact here; run the stage that makes it")
    if "://" not in artifact.path:
        return Path(artifact.path)
    return _fetched(artifact.path, tuple(sorted(card["files"].items())))


@cache
def _fetched(path: str, files: tuple[tuple[str, str], ...]) -> Path:
    """Copied once for each content."""
    target, source = Path(_scratch().name, str(abs(hash(files)))), Folder(path)
    target.mkdir()
    for name in [*(name for name, _ in files), CARD]:
        try:
            (target / name).write_bytes(source.read(name))
        except FileNotFoundError:
            raise DataError(f"{source.file(name)}: gone; `kxbatch run` makes it again") from None
    return target


@cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="kxbatch-artifacts-")
