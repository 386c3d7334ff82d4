"""Encoders that a job trained: vectors against a plain computation, and folders that do not belong together."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from kxbatch.errors import ConfigError
from kxbatch.models.byte_bpe import count_words, to_json, train
from kxbatch.models.encoders import Encoder, EncoderSettings, identify, load
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.trained_text import TrainedText
from kxbatch.stages.base import Context
from kxbatch.stages.embed import Embed, EmbedConfig

TEXTS = [
    "whitening of vectors", "白化向量", "a", "neighbours " * 60, "[MASK] is text", "ελληνικά", "x" * 900, "an ordinary sentence",
]  # fmt: skip
DIM, MAX_LENGTH = 32, 48


def save(folder: Path, **changes: Any) -> Path:
    """A small random encoder with its tokenizer, as the masked-lm stage leaves it."""
    tokenizer, _ = train(count_words(TEXTS * 5, "none"), 300)
    config = TextEncoderConfig(tokenizer.get_vocab_size(), **({"dim": DIM, "layers": 3, "key_dim": 16} | changes))
    torch.manual_seed(0)
    model = MaskedLm(config)
    for layer in model.encoder.layers:
        for weight in layer.parameters():
            weight.data *= 3  # vectors of texts differ well
    special = {"pad": 0, "cls": 1, "sep": 2, "mask": 3}
    documents = {
        "config.json": TrainedText(config, MAX_LENGTH, "last-mean", special).to_json(),
        "tokenizer.json": to_json(tokenizer),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("trained") / "encoder")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "encoder"))


def open_(folder: Path, **settings: Any) -> Encoder:
    return load(EncoderSettings(str(folder), **({"device": "cpu", "precision": "fp32"} | settings)))


def plain(folder: Path, text: str, pooling: str, max_length: int = MAX_LENGTH) -> np.ndarray[Any, Any]:
    """One text alone, without padding."""
    trained = TrainedText.read(folder)
    model = MaskedLm(trained.encoder).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    tokenizer.enable_truncation(max_length)
    ids = torch.tensor([tokenizer.encode(text).ids])
    with torch.no_grad():
        first, last = model.encoder.states(ids, Mask.full(*ids.shape))
    vector = {"cls": last[0, 0], "last-mean": last[0].mean(0), "first-last-mean": (first[0] + last[0]).mean(0) / 2}
    return vector[pooling].numpy()


@pytest.mark.parametrize(
    "changes", [{}, {"block": "attention", "normalizer": "softmax"}, {"normalizer": "squared_relu_true"}]
)
@pytest.mark.parametrize("pooling", ["cls", "last-mean", "first-last-mean"])
def test_vectors_do_not_depend_on_the_batch_and_its_padding(
    tmp_path: Path, changes: dict[str, Any], pooling: str
) -> None:
    folder = save(tmp_path / "encoder", **changes)
    expected = np.stack([plain(folder, text, pooling) for text in TEXTS])
    for budget in (64, 4096):
        encoder = open_(folder, pooling=pooling, token_budget=budget)
        np.testing.assert_allclose(encoder.encode(TEXTS).vectors, expected, atol=1e-5)
    backwards = encoder.encode(TEXTS[::-1]).vectors[::-1]
    np.testing.assert_allclose(backwards, expected, atol=1e-5)


def test_the_same_texts_give_the_same_bytes_with_any_number_of_threads(original: Path) -> None:
    texts = TEXTS * 20
    found = [open_(original, threads=threads, token_budget=128).encode(texts).vectors for threads in (1, 1, 3)]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_long_texts_are_cut_and_said_to_be(original: Path) -> None:
    encoder = open_(original)
    tokenizer = Tokenizer.from_file(str(original / "tokenizer.json"))
    expected = [len(tokenizer.encode(text).ids) > MAX_LENGTH for text in TEXTS]
    assert expected[3]
    assert encoder.encode(TEXTS).truncated.tolist() == expected
    short = open_(original, max_length=5)
    np.testing.assert_allclose(
        short.encode(TEXTS).vectors, np.stack([plain(original, t, "last-mean", 5) for t in TEXTS]), atol=1e-5
    )


def test_settings_are_heard(original: Path) -> None:
    plain_vectors = open_(original).encode(["of vectors"]).vectors
    scaled = open_(original, normalize=True).encode(["of vectors"]).vectors
    np.testing.assert_allclose(scaled, plain_vectors / np.linalg.norm(plain_vectors), rtol=1e-6)
    prompted = open_(original, prompt="query: ").encode(["of vectors"]).vectors
    np.testing.assert_array_equal(prompted, open_(original).encode(["query: of vectors"]).vectors)
    bf16 = open_(original, precision="bf16").encode(TEXTS).vectors
    expected = open_(original).encode(TEXTS).vectors
    cosine = (bf16 * expected).sum(1) / np.linalg.norm(bf16, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.99
    assert (open_(original).dim, open_(original).encode([]).vectors.shape) == (DIM, (0, DIM))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"pooling": "pooler"},
            "pooling = 'pooler': an encoder trained by kxbatch has cls, last-mean, first-last-mean",
        ),
        ({"max_length": 2}, "max_length = 2: at least 3"),
        ({"trust_remote_code": True}, "trust_remote_code = True has no meaning"),
    ],
)
def test_settings_that_do_not_fit_are_refused(original: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_(original, **settings)


def change(name: str, value: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config["encoder" if name in config["encoder"] else name] = (
            config["encoder"] | {name: value} if name in config["encoder"] else value
        )
        path.write_text(json.dumps(config))

    return apply


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            change("dim", 64),
            r"'encoder.embedding.weight' has shape \[\d+, 32\], not \[\d+, 64\].* and \d+ more; config.json and",
        ),
        (change("layers", 4), "no tensor 'encoder.layers.3.* do not belong together"),
        (change("layers", 2), "a tensor 'encoder.layers.2.* do not belong together"),
        (change("architecture", "kxbatch-txt-encoder"), "not known; known is .*; did you mean 'kxbatch-text-encoder'"),
        (change("normalizer", "softmaxplus"), "config.json': normalizer = 'softmaxplus': allowed are"),
        (change("special", {"pad": 0}), "config.json': not as it was written"),
        (
            change("special", {"pad": 0, "cls": 2, "sep": 1, "mask": 3}),
            "it makes .* of 'a'; supported are tokenizers that",
        ),
        (without("model.safetensors"), "no trained text encoder: model.safetensors missing"),
        (without("tokenizer.json"), "no trained text encoder: tokenizer.json missing"),
        (lambda f: (f / "model.safetensors").write_bytes(b"x" * 20), "model.safetensors' cannot be read"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "is no tokenizer.json"),
    ],
)
def test_folders_that_do_not_belong_together(folder: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(folder)
    with pytest.raises(ConfigError, match=words):
        open_(folder)


def test_a_larger_tokenizer_is_not_its_own(folder: Path) -> None:
    tokenizer, _ = train(count_words(["wholly other words of another corpus " * 9, *TEXTS * 5], "none"), 400)
    (folder / "tokenizer.json").write_text(json.dumps(to_json(tokenizer)))
    with pytest.raises(
        ConfigError, match=r"tokenizer.json has \d+ tokens, config.json \d+; they do not belong together"
    ):
        open_(folder)


def test_identity_is_that_of_three_files(folder: Path) -> None:
    first = identify(str(folder))
    for name in ("card.json", "evaluation.json", "training.json", "state.safetensors", "tokenizer_config.json"):
        (folder / name).write_text("{}")
    assert identify(str(folder)) == first
    digests = {first.digest}
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        digests.add(identify(str(folder)).digest)
    assert len(digests) == 4


def test_a_stage_is_named_inside_a_job_only() -> None:
    for verb in (identify, lambda model: load(EncoderSettings(model))):
        with pytest.raises(
            ConfigError, match=r"'stage:mlm': a stage is named inside a job only; .* 'OUTPUT/mlm/_artifact'"
        ):
            verb("stage:mlm")


def test_the_embed_stage_takes_what_a_stage_left(original: Path) -> None:
    config = EmbedConfig(model="stage:mlm", precision="fp32", pooling="cls")
    stage = Embed(config, "text")
    assert (stage.takes(config), stage.identity()) == ({"mlm": ("text encoder",)}, {})
    assert Embed.takes(EmbedConfig(model=str(original))) == {}
    context = Context(seed=0, threads=1, gpus=0, trained={"mlm": original}.__getitem__)
    stage.open(context)
    table = pa.table({"id": ["a", "b", "c"], "text": ["whitening of vectors", " ", "a"]})
    mapped = stage.map(table, context)
    found = np.stack(mapped.columns["embedding"].to_numpy(zero_copy_only=False))
    expected = np.stack([plain(original, text, "cls") for text in ("whitening of vectors", "a")])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [(row.row, row.error) for row in mapped.rejected] == [(1, "empty-text")]
