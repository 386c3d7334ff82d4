import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Dense, Normalize, Pooling, Transformer
from tiny_encoders import WIDTH, save_model, save_tokenizer, tiny_bert

from kxbatch.errors import ConfigError
from kxbatch.models.encoders import Encoder, EncoderSettings, load

TEXTS = ["the vector space", "a", "Words Of the Space " * 3, "word 42!", "emoji 😀", "x" * 30, "the vector space", "."]
MODES = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")


def build(folder: Path, *modules: Any, pooling: Any = "mean", include_prompt: bool = True, **how: Any) -> Path:
    """A sentence-transformers model of a tiny BERT, saved by that library."""
    raw = save_model(tiny_bert(), folder / "raw")
    transformer = Transformer(str(raw), **how.pop("transformer", {}))
    pool = Pooling(WIDTH, pooling_mode=pooling, include_prompt=include_prompt)
    SentenceTransformer(modules=[transformer, pool, *modules], device="cpu", **how).save(str(folder / "model"))
    return folder / "model"


def open_encoder(folder: Path, **changes: Any) -> Encoder:
    settings: dict[str, Any] = {"precision": "fp32", "device": "cpu", "threads": 2, "token_budget": 60}
    return load(EncoderSettings(str(folder), **(settings | changes)))


def assert_same(folder: Path, **how: Any) -> None:
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS, **how)
    found = open_encoder(folder, prompt=how.get("prompt", "")).encode(TEXTS)
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)


@pytest.mark.parametrize("mode", [*MODES, ("cls", "mean"), ("lasttoken", "max")])
def test_every_pooling_mode_equals_the_library(tmp_path: Path, mode: Any) -> None:
    assert_same(build(tmp_path, pooling=mode))


def test_pooling_flags_of_older_folders_equal_the_library(tmp_path: Path) -> None:
    folder = build(tmp_path)
    config = {"word_embedding_dimension": WIDTH, "pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}
    (folder / "1_Pooling/config.json").write_text(json.dumps(config))
    assert open_encoder(folder).dim == 2 * WIDTH
    assert_same(folder)


@pytest.mark.parametrize("activation", [torch.nn.Tanh(), torch.nn.Identity(), torch.nn.GELU()])
def test_dense_and_normalize_equal_the_library(tmp_path: Path, activation: torch.nn.Module) -> None:
    torch.manual_seed(3)
    dense = Dense(WIDTH, 12, bias=isinstance(activation, torch.nn.Tanh), activation_function=activation)
    folder = build(tmp_path, dense, Normalize())
    assert open_encoder(folder).dim == 12
    assert_same(folder)


def test_a_prompt_can_be_left_out_of_the_mean(tmp_path: Path) -> None:
    folder = build(tmp_path, include_prompt=False)
    assert_same(folder, prompt="the vector of: ")
    assert_same(folder)


def test_the_default_prompt_is_used_unless_another_is_given(tmp_path: Path) -> None:
    folder = build(tmp_path, prompts={"query": "space: ", "other": "a"}, default_prompt_name="query")
    assert_same(folder)
    assert_same(folder, prompt="word ")


def test_lower_casing_and_length_of_the_folder_hold(tmp_path: Path) -> None:
    folder = build(tmp_path)
    save_tokenizer(folder, lower_case=False)
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9, "do_lower_case": true}')
    assert_same(folder)
    encoder = open_encoder(folder)
    assert encoder.encode(["VECTOR"]).vectors.tobytes() == encoder.encode(["vector"]).vectors.tobytes()
    assert encoder.encode(["a " * 7, "a " * 8]).truncated.tolist() == [False, True]
    assert not open_encoder(folder, max_length=64).encode(["a " * 8]).truncated[0]


def test_a_pooling_that_is_asked_for_replaces_the_steps_of_the_folder(tmp_path: Path) -> None:
    folder = build(tmp_path, Dense(WIDTH, 12), Normalize())
    found = open_encoder(folder, pooling="cls").encode(TEXTS)
    expected = open_encoder(tmp_path / "raw", pooling="cls").encode(TEXTS)
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-6)


def test_what_is_not_supported_is_refused_by_name(tmp_path: Path) -> None:
    folder = build(tmp_path, Dense(WIDTH, 12))

    def rewrite(name: str, **changes: Any) -> None:
        path = folder / name
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    rewrite("1_Pooling/config.json", pooling_mode="men")
    with pytest.raises(ConfigError, match=r"pooling mode 'men' is not supported.*did you mean 'mean'"):
        open_encoder(folder)
    rewrite("1_Pooling/config.json", pooling_mode="mean")
    rewrite("2_Dense/config.json", activation_function="os.system")
    with pytest.raises(ConfigError, match=r"2_Dense.*activation system"):
        open_encoder(folder)
    rewrite("2_Dense/config.json", activation_function="torch.nn.modules.activation.Tanh")
    (folder / "2_Dense/model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"2_Dense.*model.safetensors is missing"):
        open_encoder(folder)
    modules = json.loads((folder / "modules.json").read_text())
    for kind, words in (
        ("sentence_transformers.models.CNN", "CNN' is not supported"),
        ("mine.Pooling", "mine.Pooling"),
    ):
        changed = [modules[0], modules[1] | {"type": kind}]
        (folder / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(ConfigError, match=words):
            open_encoder(folder)
    (folder / "modules.json").write_text(json.dumps([modules[0], modules[2]]))
    with pytest.raises(ConfigError, match="expected one Pooling second"):
        open_encoder(folder)
    (folder / "modules.json").write_text(json.dumps(modules[1:]))
    with pytest.raises(ConfigError, match="first module is 'Pooling', expected a Transformer"):
        open_encoder(folder)
