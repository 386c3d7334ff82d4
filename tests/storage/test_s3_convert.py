"""A trained encoder that lies on an object store is converted to a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save

from kxbatch.api import convert
from kxbatch.data.documents import publish_sealed
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import CARD
from kxbatch.errors import ConfigError
from kxbatch.models.byte_bpe import count_words, to_json, train
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.trained_text import TrainedText


def test_from_an_object_store(s3: Any, bucket: str, tmp_path: Path) -> None:
    tokenizer, _ = train(count_words(["whitening of vectors"] * 5, "none"), 300)
    config = TextEncoderConfig(tokenizer.get_vocab_size(), dim=16, layers=1, key_dim=8)
    torch.manual_seed(0)
    weights = MaskedLm(config).state_dict()
    trained = TrainedText(config, 24, "last-mean", {"pad": 0, "cls": 1, "sep": 2, "mask": 3})
    files = {
        "model.safetensors": save(weights),
        "config.json": json.dumps(trained.to_json()).encode(),
        "tokenizer.json": json.dumps(to_json(tokenizer)).encode(),
    }
    folder = Folder(f"s3://{bucket}/out/encoder/_artifact")
    digests = {name: folder.publish_bytes(name, data).digest for name, data in files.items()}
    publish_sealed(folder, CARD, {"kind": "masked-lm", "files": digests})
    found = convert(f"s3://{bucket}/out/encoder", tmp_path / "model", format="safetensors")
    assert found.differences == {"states": 0, "vectors": 0, "logits": 0}
    written = load_file(tmp_path / "model" / "model.safetensors")
    torch.testing.assert_close(written, weights, atol=0, rtol=0)
    with pytest.raises(ConfigError, match=f"there are s3://{bucket}/out/encoder"):
        convert(f"s3://{bucket}/out", tmp_path / "other", format="safetensors")
    with pytest.raises(ConfigError, match="did you mean 'encoder'"):
        convert(f"s3://{bucket}/out/encodr", tmp_path / "other", format="safetensors")
