"""What the scripts of this folder share: where a corpus comes from is checked, and a file appears whole or not at all."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl

MSRA_COLUMNS = ("id", "text", "labels", "split", "train")  # of what collect_msra.py writes


def all_there(*paths: Path | None) -> bool:
    """Whether all files are there that were named; says which one is not."""
    for path in paths:
        if path is not None and not path.exists():
            print(f"skipped, nothing was written: {path} is not there")
            return False
    return True


def read_table(path: Path, columns: Sequence[str], hint: str = "") -> pl.DataFrame:
    """A Parquet file.

    Args:
        path: where it is.
        columns: what it has to have.
        hint: what to do where it does not.

    Raises:
        SystemExit: it is no Parquet file, or lacks columns.
    """
    try:
        rows = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise SystemExit(f"{path} is no Parquet file: {error}") from error
    missing = [name for name in columns if name not in rows.columns]
    if missing:
        raise SystemExit(f"{path} has no column {', '.join(missing)}; it has {', '.join(rows.columns)}{hint}")
    return rows


def read_msra(path: Path) -> pl.DataFrame:
    """The corpus that collect_msra.py wrote.

    Raises:
        SystemExit: it is no Parquet file, or lacks columns.
    """
    return read_table(path, MSRA_COLUMNS, ": write it with collect_msra.py")


def read_packed(archive: Path, name: str, sha256: str, package: str) -> bytes:
    """A file inside a package that was downloaded and not installed.

    Args:
        archive: the package's file.
        name: of the file inside.
        sha256: of its content.
        package: name and version of the package.

    Raises:
        SystemExit: this is not the package, or its data is not what the script was written for.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            raw = opened.read(name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SystemExit(f"{archive}: {error}; it should be the file of {package}, with {name} inside") from error
    return _checked(raw, sha256, f"{archive}: {name}", f"take {package}")


def read_installed(requirement: str, name: str, sha256: str) -> bytes:
    """A file of an installed package, which is not imported.

    Args:
        requirement: the package and its version, `river==0.26.*`.
        name: of the file, below the package's folder.
        sha256: of its content.

    Raises:
        SystemExit: the package is not installed, or its data is not what the script was written for.
    """
    package, remedy = requirement.partition("==")[0], f"pip install '{requirement}'"
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise SystemExit(f"the data comes with the package {package}, which is not installed: {remedy}")
    path = Path(found.origin).parent / name
    if not path.exists():
        raise SystemExit(f"{path} is missing: {remedy}")
    return _checked(path.read_bytes(), sha256, str(path), remedy)


def _checked(raw: bytes, sha256: str, where: str, remedy: str) -> bytes:
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sha256:
        raise SystemExit(f"{where} has sha256 {digest}, expected {sha256}: {remedy}")
    return raw


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Gives the name to write to; what is there in the end becomes `path`, unless an error comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_table(table: pl.DataFrame, path: Path) -> None:
    """Write a Parquet file; it appears whole or not at all."""
    with appearing(path) as partial:
        table.write_parquet(partial)
