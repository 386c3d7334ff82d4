"""Artifacts and their cards: what a stage fitted or trained, what from, and the digests of its files.

The files are published first and the card last; a reader trusts the card.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from kxbatch.data.arrays import publish_arrays
from kxbatch.data.documents import Document, FileName, check_document, read_sealed
from kxbatch.data.parts import publish_part
from kxbatch.data.receipts import Count
from kxbatch.data.storage import Folder
from kxbatch.stages.base import Artifact

ARTIFACT = "_artifact"
TRAINING = "_training"  # folder of states, history and settings, beside the artifact
STATE = "state.safetensors"
CARD = "card.json"


class _Fitted(Document):
    rows: Count
    run: str
    at: str


class _Card(Document):
    """Of a fitted artifact; that of a stage with pairs alone has only files."""

    files: dict[FileName, str]


class _FitCard(_Card):
    fold: str
    fit: str
    chain: str
    digest: str
    drift: float
    seen: dict[str, str]
    provisional: bool
    fitted_on: dict[str, str]
    fitted: _Fitted


_CARD = TypeAdapter(_Card)
_FIT_CARD = TypeAdapter(_FitCard)


def read_card(artifact: Folder) -> dict[str, Any] | None:
    """What is known of an artifact, None where there is none.

    Raises:
        FatalError: the card is damaged.
    """
    mend = "restore it, or remove it and run the job again, which fits the artifact anew"
    card = read_sealed(artifact, CARD, _CARD, mend)
    if card is not None and "fold" in card:
        check_document(card, _FIT_CARD, f"{artifact.file(CARD)}", mend)
    return card


def taken_digest(card: Mapping[str, Any] | None) -> str:
    """What a stage depends on that takes this artifact: on the conclusion from all lists, or on what was fitted."""
    return str(card.get("concluded") or card.get("digest", "")) if card else ""


def damaged_files(folder: Folder, card: Mapping[str, Any]) -> set[str]:
    """Files of the artifact that are not as they were published; every later row depends on them."""
    files = card.get("files", {STATE: ""})
    return {name for name, digest in files.items() if folder.file(name).digest() != digest}


def publish_artifact(folder: Folder, artifact: Artifact) -> dict[str, str]:
    """Publish the files of an artifact; returns their digests by name."""
    digests = {name: publish_arrays(folder, name, arrays).digest for name, arrays in artifact.arrays.items()}
    for name, document in artifact.documents.items():
        digests[name] = folder.publish_json(name, document).digest
    for name, table in artifact.tables.items():
        digests[name] = publish_part(folder, name, table, {}).digest
    return digests
