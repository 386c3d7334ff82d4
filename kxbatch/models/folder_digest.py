"""What the files of a model folder hold, as one number."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def folder_digest(folder: Path, names: Iterable[str]) -> str:
    """sha256 over some files of a folder and their names: equal content, equal digest."""
    whole = hashlib.sha256()
    for name in names:
        with (folder / name).open("rb") as file:
            whole.update(f"{name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return whole.hexdigest()
