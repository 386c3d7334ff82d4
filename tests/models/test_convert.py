"""Converted encoders: the same numbers in every format, proven where kxbatch is not; and nothing left where they differ."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from kxbatch.api import convert
from kxbatch.cli import cli
from kxbatch.data.documents import publish_sealed
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import CARD
from kxbatch.errors import ConfigError, DataError, FatalError, KxbatchError
from kxbatch.models.byte_bpe import count_words, to_json, train
from kxbatch.models.encoders import EncoderSettings, load
from kxbatch.models.export import hf, one_file, plain
from kxbatch.models.export.parity import Answer, answers, compare
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.trained_text import TrainedText, load_weights

TEXTS = ["whitening of vectors", "白化向量", "neighbours of the vectors", "ελληνικά", "an ordinary sentence"]
MAX_LENGTH = 24
ATTENTION = {"block": "attention", "heads": 2}
KINDS: list[dict[str, Any]] = [
    *({"normalizer": name} for name in ("softmax_plus", "softmax", "softmax_beyond", "squared_relu")),
    *({"normalizer": f"squared_relu_{name}"} for name in ("true", "paper", "sum")),
    {"norm": "pre", "norm_kind": "layernorm", "bias": True},
    {"init": "deepnorm-adam", "expansion": 24},
    ATTENTION,
    ATTENTION | {"normalizer": "squared_relu_sum", "norm": "pre"},
    ATTENTION | {"norm_kind": "layernorm", "bias": True, "normalizer": "softmax"},
]


def make(folder: Path, *, pooling: str = "last-mean", **changes: Any) -> Path:
    """A small random encoder with tokenizer and card, as a masked-lm stage leaves it."""
    tokenizer, _ = train(count_words(TEXTS * 5, "none"), 300)
    config = TextEncoderConfig(tokenizer.get_vocab_size(), **({"dim": 16, "layers": 2, "key_dim": 8} | changes))
    torch.manual_seed(0)
    model = MaskedLm(config)
    for weight in model.encoder.layers.parameters():
        weight.data = 2 * weight.data + 0.02  # branches count, biases are not 0
    special = {"pad": 0, "cls": 1, "sep": 2, "mask": 3}
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TrainedText(config, MAX_LENGTH, pooling, special).to_json()))
    (folder / "tokenizer.json").write_text(json.dumps(to_json(tokenizer)))
    seal(folder, "masked-lm")
    return folder


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.iterdir())


def seal(folder: Path, kind: str) -> None:
    store = Folder(str(folder))
    digests = {name: store.publish_bytes(name, store.read(name)).digest for name in store.names()}
    publish_sealed(store, CARD, {"kind": kind, "files": digests})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("out") / "encoder"
    make(home / "_artifact")
    return home


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Code of converted models is cached here, not in the home directory, and forgotten afterwards."""
    from transformers import dynamic_module_utils

    cache = str(tmp_path_factory.mktemp("modules"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", cache)
        patch.syspath_prepend(cache)
        forget_code_of_models()
        yield
        forget_code_of_models()


def forget_code_of_models() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "transformers_modules"]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(map(str, kind.values())))
def test_every_kind_of_layer_is_the_same_in_transformers(tmp_path: Path, modules: None, kind: dict[str, Any]) -> None:
    from transformers import AutoModel, AutoModelForMaskedLM

    source, target = make(tmp_path / "a", **kind), tmp_path / "b"
    target.mkdir()
    hf.write_hf(source, target)
    model = AutoModel.from_pretrained(target, trust_remote_code=True).eval()
    head = AutoModelForMaskedLM.from_pretrained(target, trust_remote_code=True).eval()
    ours = MaskedLm(TrainedText.read(source).encoder).eval()
    ours.load_state_dict(head.state_dict())

    def run(answer: Answer) -> Answer:
        words = {"input_ids": torch.tensor(answer.ids), "attention_mask": torch.tensor(answer.mask)}
        with torch.no_grad():
            output = model(**words, output_hidden_states=True)
            logits = head(**words).logits[:, 0]
            first, last = ours.encoder.states(words["input_ids"], Mask.padding(words["attention_mask"].bool()))
        assert len(output.hidden_states) == 3
        torch.testing.assert_close(output.hidden_states[1], first, atol=1e-6, rtol=0)
        torch.testing.assert_close(output.hidden_states[-1], last, atol=1e-6, rtol=0)
        found = {"states": output.last_hidden_state, "vectors": output.pooler_output, "logits": logits}
        return Answer(answer.texts, answer.ids, answer.mask, {name: a.numpy() for name, a in found.items()})

    expected = answers(source)
    assert max(compare(expected, [run(a) for a in expected], 1e-5).differences.values()) <= 1e-5


def test_a_loss_counts_only_what_is_asked_for(stage: Path, tmp_path: Path, modules: None) -> None:
    from transformers import AutoModelForMaskedLM

    hf.write_hf(stage / "_artifact", tmp_path)
    head = AutoModelForMaskedLM.from_pretrained(tmp_path, trust_remote_code=True)
    ids = torch.tensor([[1, 7, 8, 2]])
    loss, logits = head(ids, labels=torch.tensor([[-100, 9, -100, -100]]), return_dict=False)
    torch.testing.assert_close(loss, -logits[0, 1].log_softmax(-1)[9])


def test_the_command_makes_a_folder_that_needs_no_kxbatch(stage: Path, tmp_path: Path) -> None:
    """The check itself runs where kxbatch cannot be imported."""
    words = ["convert", str(stage), "--format", "hf", "--to", str(tmp_path / "new" / "model"), "--json"]
    facts = json.loads(CliRunner().invoke(cli, words, catch_exceptions=False).stdout)
    assert facts["texts"] > 30
    assert set(facts["differences"]) == {"states", "vectors", "logits", "sentence-transformers"}
    assert max(facts["differences"].values()) <= 1e-5
    assert {"configuration_kxbatch.py", "modeling_kxbatch.py", "1_Pooling/config.json"} <= set(facts["files"])
    assert "import kxbatch" not in (tmp_path / "new" / "model" / "modeling_kxbatch.py").read_text()
    modes = {(tmp_path / "new" / "model" / name).stat().st_mode for name in facts["files"]}
    assert len(modes) == 1  # whoever may read the configuration may read the weights
    assert names(tmp_path / "new") == ["model"]


def test_code_that_needs_kxbatch_is_found_out(stage: Path, tmp_path: Path) -> None:
    hf.write_hf(stage / "_artifact", tmp_path)
    with (tmp_path / "modeling_kxbatch.py").open("a") as code:
        code.write("import kxbatch.errors\n")
    with pytest.raises(FatalError, match="cannot be loaded without kxbatch"):
        hf.check_hf(stage / "_artifact", tmp_path)


@pytest.mark.parametrize("pooling", ["cls", "first-last-mean"])
def test_sentence_transformers_pools_as_we_do(tmp_path: Path, modules: None, pooling: str) -> None:
    from sentence_transformers import SentenceTransformer

    source, target = make(tmp_path / "a", pooling=pooling, norm="pre"), tmp_path / "b"
    target.mkdir()
    hf.write_hf(source, target)
    found = SentenceTransformer(str(target), device="cpu", trust_remote_code=True).encode(TEXTS)
    expected = load(EncoderSettings(str(source), device="cpu", precision="fp32")).encode(TEXTS).vectors
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("kind", [{}, ATTENTION | {"norm": "pre", "norm_kind": "layernorm"}], ids=["gau", "attention"])
def test_a_graph_takes_any_number_of_texts_and_tokens(tmp_path: Path, kind: dict[str, Any]) -> None:
    """Longer than it was trained for, too, and padded on the left."""
    import onnxruntime

    source = make(tmp_path / "a", layers=1, pooling="first-last-mean", **kind)
    found = convert(source, tmp_path / "b", format="onnx")
    assert found.files == ["config.json", "model.onnx", "tokenizer.json", "tokenizer_config.json"]
    assert set(found.differences) == {"states", "vectors"}
    assert max(found.differences.values()) <= 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "b" / "model.onnx")
    model = MaskedLm(TrainedText.read(source).encoder).eval()
    load_weights(model, source)
    generator = torch.Generator().manual_seed(0)
    for texts, tokens in ((1, 1), (1, 90), (5, 2), (17, 33)):
        ids = torch.randint(4, 200, (texts, tokens), generator=generator)
        mask = (torch.arange(tokens) >= torch.arange(texts).unsqueeze(1) % tokens).long()
        states, _ = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
        with torch.no_grad():
            expected = model.encoder(ids, Mask.padding(mask.bool()))
        np.testing.assert_allclose(states[mask.bool().numpy()], expected[mask.bool()].numpy(), atol=1e-5)


@pytest.mark.parametrize(("dtype", "limit"), [("fp32", 0), ("fp16", 0.01), ("bf16", 0.1)])
def test_bare_weights_are_an_encoder_again(stage: Path, tmp_path: Path, dtype: str, limit: float) -> None:
    found = convert(stage / "_artifact", tmp_path / "b", format="safetensors", dtype=dtype)
    assert found.files == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert found.differences["vectors"] <= limit
    with safe_open(tmp_path / "b" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "architecture": "kxbatch-text-encoder", "storage": dtype}
    stored = {weight.dtype for weight in load_file(tmp_path / "b" / "model.safetensors").values()}
    assert stored == {{"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]}
    vectors = [
        load(EncoderSettings(str(path), device="cpu", precision="fp32")).encode(TEXTS).vectors
        for path in (stage / "_artifact", tmp_path / "b")
    ]
    np.testing.assert_allclose(vectors[1], vectors[0], atol=limit)
    again = convert(tmp_path / "b", tmp_path / "c", format="safetensors", dtype=dtype)
    assert again.differences["vectors"] == 0


def test_a_tokenizer_as_we_use_it(stage: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    convert(stage, tmp_path / "b", format="safetensors")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "b")
    assert [tokenizer.pad_token, tokenizer.cls_token, tokenizer.sep_token, tokenizer.mask_token] == [
        "[PAD]", "[CLS]", "[SEP]", "[MASK]",
    ]  # fmt: skip
    assert tokenizer.model_max_length == MAX_LENGTH
    assert set(tokenizer("a")) == {"input_ids", "attention_mask"}
    assert tokenizer.mask_token_id not in tokenizer("[MASK]")["input_ids"]


def spoiled(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., None]:
    """A writer that changes one number of the weights."""
    write = plain.write_plain

    def writer(source: Path, target: Path, storage: str) -> None:
        write(source, target, storage)
        weights = load_file(target / "model.safetensors")
        name = sorted(weights)[-1]
        weights[name][0, 0] = change(weights[name][0, 0])
        save_file(weights, target / "model.safetensors")

    return writer


@pytest.mark.parametrize("change", [lambda x: x + 0.1, lambda x: x * float("nan")], ids=["other", "nan"])
@pytest.mark.parametrize("empty", [False, True], ids=["absent", "empty"])
def test_other_numbers_leave_nothing(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Any, empty: bool
) -> None:
    target = tmp_path / "b"
    if empty:
        target.mkdir()
    monkeypatch.setattr(plain, "write_plain", spoiled(change))
    with pytest.raises(FatalError, match=r"differ by up to .* nothing was written"):
        convert(stage, target, format="safetensors")
    assert [p.name for p in tmp_path.rglob("*")] == (["b"] if empty else [])


def test_other_tokens_are_found_out(stage: Path) -> None:
    expected = answers(stage / "_artifact")
    other = [Answer(a.texts, a.ids + 1, a.mask, a.numbers) for a in expected]
    with pytest.raises(FatalError, match="other tokens"):
        compare(expected, other, 1.0)


def test_the_probe_has_padding_cut_texts_and_a_text_alone(stage: Path) -> None:
    found = answers(stage / "_artifact")
    assert any((a.mask == 0).any() for a in found)
    assert any(a.ids.shape[1] == MAX_LENGTH and len(a.texts[0]) > 10 * MAX_LENGTH for a in found)
    assert len(found[-1].texts) == 1


def test_the_name_is_made_up_of_stage_and_format(stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = convert(stage, None, format="safetensors", dtype="fp16")
    assert found.path == str(tmp_path / "encoder-safetensors")
    with pytest.raises(ConfigError, match=r"is not empty \(config.json, model.safetensors, tokenizer.json\)"):
        convert(stage / "_artifact", None, format="safetensors")


def refused(*words: Any, error: type[KxbatchError] = ConfigError, **options: Any) -> str:
    with pytest.raises(error) as caught:
        convert(*words, **options)
    return str(caught.value)


def test_what_cannot_be_converted_is_named(stage: Path, tmp_path: Path) -> None:
    words = tmp_path / "out" / "words" / "_artifact"
    words.mkdir(parents=True)
    (words / "tokenizer.json").write_text("{}")
    seal(words, "tokenizer")
    target = tmp_path / "b"
    assert "did you mean 'encoder'?" in refused(stage.with_name("encoders"), target, format="hf")
    assert f"there are {stage}" in refused(stage.parent, target, format="hf")
    said = refused(words, target, format="hf")
    assert "the artifact of a tokenizer stage; what can be converted is a text encoder" in said
    assert "tokenizer.json can be used elsewhere as it is" in said
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.parquet").touch()
    assert "no artifact here; there is a.parquet" in refused(tmp_path / "data", target, format="hf")
    assert "did you mean 'onnx'?" in refused(stage, target, format="onx")
    assert "did you mean 'fp16'?" in refused(stage, target, format="safetensors", dtype="f16")
    assert "is for --format safetensors; hf is fp32" in refused(stage, target, format="hf", dtype="fp16")
    assert not target.exists()


def test_targets_in_use_are_left_alone(stage: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(stage, tmp_path / "file", format="hf")
    assert "is not empty (file)" in refused(stage, tmp_path, format="hf")
    assert "inside the artifact" in refused(stage, stage / "_artifact" / "x", format="hf")
    assert "local or mounted folders" in refused(stage, "s3://bucket/x", format="hf")
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(("format", "module"), [("hf", "transformers"), ("onnx", "onnxruntime")])
def test_a_missing_extra_is_named(
    stage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str, module: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == module else find(name, *rest))
    said = refused(stage, tmp_path / "b", format=format)
    assert said == f"--format {format} needs {module}; run: pip install 'kxbatch[{format}]'"


def test_a_damaged_artifact_is_not_converted(tmp_path: Path) -> None:
    source = make(tmp_path / "a")
    (source / "tokenizer.json").write_text("{}")
    assert "tokenizer.json not as published" in refused(source, tmp_path / "b", format="hf", error=DataError)


def test_names_that_mean_two_things_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two modules that both have a `_check` would become one that has the wrong one."""
    (tmp_path / "joined").mkdir()
    (tmp_path / "joined" / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(one_file, "PACKAGE", "joined")
    (tmp_path / "joined" / "b.py").write_text('"""B."""\nimport math\n\ndef f():\n    return math.pi\n')
    (tmp_path / "joined" / "a.py").write_text('"""A."""\nfrom joined.b import f\n\n\ndef g():\n    return f() + 1\n')
    made: dict[str, Any] = {}
    exec(one_file.one_file("joined.a", {}), made)
    assert made["g"]() == pytest.approx(4.14159, abs=1e-5)
    (tmp_path / "joined" / "a.py").write_text("from joined.b import f\n\nmath = f\n")
    with pytest.raises(ValueError, match=r"'math' is of 'import math' and of 'joined.a'"):
        one_file.one_file("joined.a", {})
    (tmp_path / "joined" / "a.py").write_text("from joined.b import f as g\n")
    with pytest.raises(ValueError, match="cannot be joined"):
        one_file.one_file("joined.a", {})
