"""Files of a graph that somebody else made, their digests right: an error that names the file, or the graph."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import kxbatch as kx
from kxbatch.data.arrays import publish_arrays, read_arrays
from kxbatch.data.documents import publish_sealed
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError, RetryableError
from kxbatch.models.graph import Graph, Spelling, opening

ABOUT, TOKENIZER, FACTS = "graph.json", "tokenizer.json", "facts.safetensors"
DROPPED = object()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that nobody changes."""
    home = tmp_path_factory.mktemp("opening")
    frame = pl.DataFrame({"subject": ["a（m）", "b"], "predicate": ["p", "q"], "object": ["1", "2"]})
    frame.write_parquet(home / "t.parquet")
    job = {
        "job": {"name": "graph", "output": str(home / "out"), "executor": "inline"},
        "input": {"path": str(home / "t.parquet")},
        "stage": [{"kind": "graph"}],
    }
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    return home / "out/graph/_artifact"


@pytest.fixture
def artifact(built: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return shutil.copytree(built, tmp_path / "graph")


def seal(artifact: Path) -> Path:
    """Makes the card say that all files are as they should be."""
    card = json.loads((artifact / "card.json").read_text())
    digests = {name: hashlib.sha256((artifact / name).read_bytes()).hexdigest() for name in card["files"]}
    sealed = {key: value for key, value in card.items() if key != "checksum"} | {"files": digests}
    publish_sealed(Folder(str(artifact)), "card.json", sealed)
    return artifact


def refused(artifact: Path, name: str, *, also: Callable[[Path], Any] = Spelling.read) -> None:
    """By `Graph.open`, and by another reader: the file is named, and what to do."""
    seal(artifact)
    for read in (Graph.open, also):
        with pytest.raises(DataError, match=rf"{name}: .*build the graph again"):
            read(artifact)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("separator", DROPPED), ("separator", "[SEP]"), ("separator", -1), ("separator", 10**6), ("separator", 10**12),
        ("pad", None), ("pad", 2.0), ("order", "psm"), ("order", ["spm"]), ("order", DROPPED), ("splits_meaning", "no"),
        ("splits_meaning", DROPPED), ("tokenizer_digest", DROPPED), ("tokenizer_digest", "0" * 64),
    ],
)  # fmt: skip
def test_what_a_graph_says_of_itself_is_checked(artifact: Path, key: str, value: object) -> None:
    about = json.loads((artifact / ABOUT).read_text())
    about = {k: v for k, v in about.items() if k != key} | ({} if value is DROPPED else {key: value})
    (artifact / ABOUT).write_text(json.dumps(about))
    refused(artifact, "(graph|tokenizer).json")


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"order": "\xff"}', b"[" * 100_000])
def test_a_document_that_is_none_is_refused(artifact: Path, content: bytes) -> None:
    for name in (ABOUT, TOKENIZER):
        kept = (artifact / name).read_bytes()
        (artifact / name).write_bytes(content)
        refused(artifact, name)
        (artifact / name).write_bytes(kept)
    assert len(Graph.open(seal(artifact))) == 2


def test_both_readers_look_at_digests(artifact: Path) -> None:
    about = (artifact / ABOUT).read_text()
    (artifact / ABOUT).write_text(about.replace('"spm"', '"smp"'))
    for read in (Graph.open, Spelling.read):
        with pytest.raises(DataError, match=r"graph\.json: damaged, it is not what its digest says"):
            read(artifact)
    (artifact / TOKENIZER).unlink()
    (artifact / ABOUT).write_text(about)
    for read in (Graph.open, Spelling.read):
        with pytest.raises(DataError, match=r"tokenizer\.json: missing"):
            read(artifact)


def test_a_graph_and_its_spelling_agree(built: Path) -> None:
    graph, spelling = Graph.open(built), Spelling.read(built)
    assert graph.spelling.identity == spelling.identity
    theirs, ours = graph.keys_of(["A"], ["ｐ"], ["M"]), spelling.keys(["Ａ（m）"], ["P"])
    assert theirs.tokens.tolist() == ours.tokens.tolist()


ARRAYS: dict[str, Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]] = {
    "subject.codes": lambda x: x.astype(np.float64),
    "object.codes": lambda x: x.astype(np.bool_),
    "predicate.letters": lambda x: x.astype(np.int64),
    "meaning.starts": lambda x: x.astype(np.int8),
    "starts": lambda x: x.reshape(1, -1),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_facts_of_another_type_are_refused(artifact: Path, name: str) -> None:
    folder = Folder(str(artifact))
    arrays = read_arrays(folder, FACTS)
    publish_arrays(folder, FACTS, arrays | {name: ARRAYS[name](arrays[name])})
    with pytest.raises(DataError, match=rf"array {name} of facts is .*build the graph again"):
        Graph.open(seal(artifact))


@pytest.mark.parametrize("name", ["subject.codes", "predicate.letters", "starts"])
def test_facts_that_name_what_is_not_there_are_refused_when_they_are_read(artifact: Path, name: str) -> None:
    folder = Folder(str(artifact))
    arrays = read_arrays(folder, FACTS)
    odd = {"subject.codes": [9, 9], "predicate.letters": [255, 255], "starts": [2, 0, 2]}[name]
    publish_arrays(folder, FACTS, arrays | {name: np.array(odd, arrays[name].dtype)})
    graph = Graph.open(seal(artifact))
    with pytest.raises(DataError, match="the arrays of facts are damaged"):
        graph.facts(np.arange(2))


def test_a_graph_that_is_built_again_meanwhile_is_not_mixed_with_the_old_one(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = opening._spelling

    def replaced(folder: Path) -> Spelling:
        content = (artifact / FACTS).read_bytes()
        (artifact / "new").write_bytes(content)
        (artifact / "new").replace(artifact / FACTS)
        return real(folder)

    monkeypatch.setattr(opening, "_spelling", replaced)
    with pytest.raises(RetryableError, match="built again while it was opened"):
        Graph.open(artifact)
