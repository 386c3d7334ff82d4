"""Reads JSON files of an output as typed records; what is damaged is named, what is absent is None."""

from __future__ import annotations

from typing import TypeVar

from pydantic import ValidationError

from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report.record import Record

R = TypeVar("R", bound=Record)


def load(folder: Folder, name: str, kind: type[R]) -> R | None:
    """The record in a JSON file, or None where there is no such file.

    Raises:
        DataError: the file is not such a record.
    """
    try:
        return kind.model_validate_json(folder.read(name))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise _damaged(str(folder.file(name)), error) from error


def load_lines(folder: Folder, name: str, kind: type[R]) -> list[R] | None:
    """The records in a file of JSON lines, or None where there is no such file.

    Raises:
        DataError: a line is not such a record.
    """
    try:
        lines = folder.read(name).splitlines()
    except FileNotFoundError:
        return None
    found = []
    for at, line in enumerate(lines, 1):
        try:
            found.append(kind.model_validate_json(line))
        except ValidationError as error:
            raise _damaged(f"{folder.file(name)}: line {at}", error) from error
    return found


def _damaged(where: str, error: ValidationError) -> DataError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"]) or "the file"
    return DataError(f"{where}: {key}: {first['msg']}; run the job again to write it anew")
