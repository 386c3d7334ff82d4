"""The JSON documents of an output, read as what they must be.

A document that is damaged is refused with the file and the key named, before anything is believed of it: what it says decides
which files are read, kept and removed. A *sealed* document carries a checksum of its values, so that a digit that
changed is found out, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from kxbatch.data.storage import Folder
from kxbatch.errors import FatalError
from kxbatch.spec.fingerprint import fingerprint

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$")]  # in the folder, and in no other


class Document(BaseModel):
    """Base of the shapes: no conversion of types; keys that are not named are nobody's business."""

    model_config = ConfigDict(strict=True, extra="ignore")


def publish_sealed(folder: Folder, name: str, document: Mapping[str, Any]) -> None:
    """Publish a document with the checksum of its values."""
    folder.publish_json(name, {**document, "checksum": fingerprint(document)})


def read_sealed(folder: Folder, name: str, shape: TypeAdapter[Any], mend: str) -> dict[str, Any] | None:
    """A sealed document without its checksum; otherwise as `read_document`."""
    raw = folder.read_json(name)
    if raw is None:
        return None
    where = str(folder.file(name))
    values = {key: value for key, value in raw.items() if key != "checksum"} if isinstance(raw, dict) else None
    if values is None or raw.get("checksum") != _checksum(values):
        raise FatalError(f"{where}: damaged, it is not what its checksum says; {mend}")
    check_document(values, shape, where, mend)
    return values


def read_document(folder: Folder, name: str, shape: TypeAdapter[Any], mend: str = "restore it or remove it") -> Any:
    """A document as JSON values, None where there is none.

    Args:
        folder: where it is.
        name: its name there.
        shape: what it must be.
        mend: what a person should do about a damaged one.

    Raises:
        FatalError: it is damaged; names the file, the key and the mend.
    """
    raw = folder.read_json(name)
    if raw is not None:
        check_document(raw, shape, str(folder.file(name)), mend)
    return raw


def check_document(raw: Any, shape: TypeAdapter[Any], where: str, mend: str) -> None:
    """Make sure that JSON values have a shape.

    Raises:
        FatalError: they have not.
    """
    try:
        shape.validate_python(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise FatalError(f"{where}: damaged, {key}: {first['msg']}; {mend}") from None


def _checksum(values: Mapping[str, Any]) -> str:
    """The checksum, empty for values that were never published: NaN, or text that is not Unicode."""
    try:
        return fingerprint(values)
    except ValueError:
        return ""
