"""Where the ready job files are: package data of an installed wheel, or the checkout's `jobs/`."""

from __future__ import annotations

from pathlib import Path

import kxbatch
from kxbatch.errors import ConfigError, nearest


def jobs_folder() -> Path:
    """The folder of the job files that come with kxbatch.

    Raises:
        ConfigError: the installation has none.
    """
    package = Path(kxbatch.__file__).parent
    for folder in (package / "jobs", package.parent / "jobs"):
        if folder.is_dir():
            return folder
    raise ConfigError(f"{package}: this installation has no job files; install kxbatch again")


def templates(folder: Path) -> dict[str, str]:
    """Name -> first line of every job file in a folder, by name."""
    return {path.stem: _first_line(path) for path in sorted(folder.glob("*.toml"))}


def find_template(folder: Path, name: str) -> Path:
    """The job file of that name; `-` and `_` are the same.

    Raises:
        ConfigError: no such template; lists them.
    """
    known = templates(folder)
    stem = name.removesuffix(".toml").replace("-", "_")
    if stem not in known:
        listed = "\n".join(f"  {key:<20} {line}" for key, line in known.items())
        raise ConfigError(f"no template '{name}'{nearest(stem, known)} Templates:\n{listed}")
    return folder / f"{stem}.toml"


def _first_line(path: Path) -> str:
    first, *_ = path.read_text(encoding="utf-8").splitlines() or [""]
    return first.lstrip("# ").strip()
