"""Folders that are no extractor, or a damaged one, are refused in words that help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.extractor import HeadConfig
from kxbatch.models.extraction.trained import CONFIG, TOKENIZER, WEIGHTS, TrainedExtractor
from kxbatch.models.tokenization import ROLES

SPECIAL = {role: number for number, role in enumerate(ROLES)}
GOOD = TrainedExtractor(("A", "B"), HeadConfig("crf", 2, 16, True, True), 32, SPECIAL, {"own": {}})


def folder(path: Path, told: dict[str, Any]) -> Path:
    for name in (WEIGHTS, TOKENIZER):
        (path / name).write_bytes(b"")
    (path / CONFIG).write_text(json.dumps(told))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert TrainedExtractor.read(folder(tmp_path, GOOD.to_json())) == GOOD


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (
            {"architecture": "kxbatch-retriever"},
            "architecture 'kxbatch-retriever' is no extractor; .* a ner stage leaves",
        ),
        ({"architecture": None}, "architecture None is no extractor"),
        ({"types": []}, "not of an extractor: types"),
        ({"head": "span"}, "not of an extractor: head"),
        ({"max_length": "long"}, "not of an extractor: max_length"),
        ({"more": 1}, "not of an extractor: more"),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainedExtractor.read(folder(tmp_path, GOOD.to_json() | changed))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    (folder(tmp_path, GOOD.to_json()) / TOKENIZER).unlink()
    with pytest.raises(ConfigError, match=r"no trained extractor: tokenizer\.json missing"):
        TrainedExtractor.read(tmp_path)
