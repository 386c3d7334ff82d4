"""A graph from its files: found, checked against their digests, mapped into memory, changes applied."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from kxbatch.data.documents import Document, FileName, check_document, read_sealed
from kxbatch.data.mapped_arrays import map_arrays
from kxbatch.data.storage import Folder
from kxbatch.errors import ConfigError, DataError, FatalError, RetryableError
from kxbatch.kernels.trie import Trie
from kxbatch.models.graph.build import Built, Order
from kxbatch.models.graph.facts import Facts
from kxbatch.models.graph.graph import Graph
from kxbatch.models.graph.journal import JOURNAL, finished_lines, read_journal
from kxbatch.models.graph.spelling import Spelling
from kxbatch.models.graph.tokenizer import GraphTokenizer

TRIE, FACTS, TOKENIZER, ABOUT = "trie.safetensors", "facts.safetensors", "tokenizer.json", "graph.json"
ARTIFACT, CARD = "_artifact", "card.json"  # as the engine calls them
MEND = "build the graph again: `kxbatch kg build`, or `kxbatch run` with its job"


class _Card(Document):
    files: dict[FileName, str]


class _About(Document):
    """What `graph.json` must say; the rest of it is for people."""

    order: Order
    separator: int
    pad: int
    splits_meaning: bool
    tokenizer_digest: str


_CARD, _ABOUT = TypeAdapter(_Card), TypeAdapter(_About)


@dataclass(frozen=True)
class Place:
    """Where a graph lies.

    Attributes:
        artifact: folder of its files.
        changes: folder of its journal: that of the stage, or the artifact's own where it lies by itself.
    """

    artifact: Path
    changes: Path

    @property
    def journal(self) -> Path:
        """The file of the changes."""
        return self.changes / JOURNAL


def find_graph(folder: Path) -> Place:
    """The graph that an output folder, a stage's folder or an artifact holds.

    Raises:
        ConfigError: there is none, or several.
    """
    found = [path.parent for path in (folder / ABOUT, folder / ARTIFACT / ABOUT) if path.is_file()]
    found = found or sorted(path.parent for path in folder.glob(f"*/{ARTIFACT}/{ABOUT}") if path.is_file())
    if len(found) > 1:
        raise ConfigError(
            f"{folder}: several graphs, {', '.join(p.parent.name for p in found)}; name the folder of one"
        )
    if not found:
        what = "no graph in here" if folder.is_dir() else "no such folder"
        raise ConfigError(f"{folder}: {what}; give the output of `kxbatch kg build`, or the folder of a graph stage")
    artifact = found[0].resolve()
    return Place(artifact, artifact.parent if artifact.name == ARTIFACT else artifact)


def open_graph(folder: Path) -> Graph:
    """See `Graph.open`."""
    place = find_graph(folder)
    names = (TRIE, FACTS, TOKENIZER, ABOUT)
    seen = _versions(place.artifact, names)
    files = _checked_files(place.artifact, names)
    spelling = _spelling(place.artifact)
    trie = Trie.from_arrays(map_arrays(place.artifact / TRIE, MEND))
    facts = Facts.from_arrays(map_arrays(place.artifact / FACTS, MEND))
    if _versions(place.artifact, names) != seen:
        raise RetryableError(f"{place.artifact}: built again while it was opened; open it once more")
    said = [files[name] for name in (TRIE, FACTS, TOKENIZER)] + [spelling.order, spelling.tokenizer.separator]
    graph = Graph.over(Built(trie, facts), spelling, hashlib.sha256(json.dumps(said).encode()).hexdigest())
    return graph.with_changes(read_journal(place.journal), missing="ignore")


def read_spelling(folder: Path) -> Spelling:
    """See `Spelling.read`."""
    artifact = find_graph(folder).artifact
    _checked_files(artifact, (TOKENIZER, ABOUT))
    return _spelling(artifact)


def _spelling(artifact: Path) -> Spelling:
    """What the files say of it, whoever wrote them.

    Raises:
        DataError: they are not what a graph has, or do not belong together.
    """
    about, tokenizer = artifact / ABOUT, artifact / TOKENIZER
    try:
        said = json.loads(about.read_bytes())
        check_document(said, _ABOUT, str(about), MEND)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{about}: no JSON ({error}); {MEND}") from None
    except FatalError as error:
        raise DataError(str(error)) from None
    try:
        found = GraphTokenizer.from_json(tokenizer.read_text(encoding="utf-8"), said["separator"], said["pad"])
    except (ValueError, DataError) as error:
        raise DataError(f"{tokenizer}: {error}; {MEND}") from None
    if found.digest != said["tokenizer_digest"]:
        raise DataError(f"{tokenizer}: not the tokenizer that the graph was built with; {MEND}")
    return Spelling(found, said["order"], said["splits_meaning"])


def _card(artifact: Path) -> Mapping[str, str]:
    """Digests by name, as they were when the files were published.

    Raises:
        DataError: the card is missing, damaged, or says nothing of a file.
    """
    try:
        card = read_sealed(Folder(str(artifact)), CARD, _CARD, MEND)
    except FatalError as error:
        raise DataError(str(error)) from None
    missing = sorted({TRIE, FACTS, TOKENIZER, ABOUT} - set(card["files"] if card else ()))
    if card is None or missing:
        raise DataError(f"{artifact / CARD}: {'missing' if card is None else f'says nothing of {missing}'}; {MEND}")
    files: Mapping[str, str] = card["files"]
    return files


def _checked_files(artifact: Path, wanted: Iterable[str]) -> Mapping[str, str]:
    """Digests by name; those of the files that are wanted hold.

    Raises:
        DataError: a file is gone or has changed.
    """
    files = _card(artifact)
    names = sorted(wanted, key=lambda name: -_size(artifact / name))
    with ThreadPoolExecutor() as pool:  # hashing leaves other threads alone
        for name, digest in zip(names, pool.map(lambda name: _digest(artifact / name), names), strict=True):
            if digest != files[name]:
                problem = "missing" if digest is None else "damaged, it is not what its digest says"
                raise DataError(f"{artifact / name}: {problem}; {MEND}")
    return files


def _versions(artifact: Path, names: Iterable[str]) -> list[tuple[int, int, int] | None]:
    """What tells a file from the one that takes its place."""
    found = [(artifact / name).stat() if (artifact / name).exists() else None for name in names]
    return [stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size) for stat in found]


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except (FileNotFoundError, IsADirectoryError):
        return None


def graph_digest(folder: Path) -> str:
    """What is in a graph, changes included, by what its card says: reads no fact.

    Raises:
        ConfigError: there is no graph there, or several.
        DataError: its card is missing or damaged.
    """
    place = find_graph(folder)
    said = json.dumps([_card(place.artifact)[name] for name in (TRIE, FACTS, TOKENIZER, ABOUT)])
    return hashlib.sha256(said.encode() + b"\n".join(finished_lines(place.journal))).hexdigest()
