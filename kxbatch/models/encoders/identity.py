"""Which model it is, by content, without loading it: asked while a job is planned."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from kxbatch.errors import ConfigError
from kxbatch.models.encoders import hub, sources
from kxbatch.models.encoders.folders import TOKENIZER_FILES, architecture, read_folder
from kxbatch.models.encoders.protocol import ModelIdentity

_SUFFIXES = {".safetensors", ".model", ".py"}
_NAMES = {
    "config.json", "modules.json", "config_sentence_transformers.json", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.txt", "vocab.json", "merges.txt",
}  # fmt: skip
_TRAINED = ("config.json", "model.safetensors", "tokenizer.json")
_OTHER_RUNTIMES = {"onnx", "openvino"}


def identify(model: str, *, offline: bool = False) -> ModelIdentity:
    """Identity of the model that a `model` string names.

    Args:
        model: hub id, folder, `package:<distribution>` or `callable:<module>:<function>`.
        offline: never ask a model hub.

    Returns:
        Its identity; equal content gives equal digests, wherever it lies.

    Raises:
        ConfigError: the model does not exist, is no model, or cannot be identified without a hub.
    """
    source = sources.parse(model)
    match source:
        case sources.HubModel():
            return ModelIdentity(source.id, "hub", hub.revision(source.id, offline=offline))
        case sources.FolderModel():
            return ModelIdentity(model, "folder", _folder_digest(source.path))
        case sources.PackagedModel():
            name = f"{source.distribution}=={source.version}"
            if source.format == "folder":
                return ModelIdentity(name, "package", _folder_digest(source.path))
            return ModelIdentity(name, "package", _digest(source.path, source.path.iterdir()))
        case sources.CallableModel():
            digest = _digest(source.path.parent, [source.path])
            return ModelIdentity(f"{source.module}:{source.function}", "callable", digest)


def identify_tokenizer(tokenizer: str, *, offline: bool = False) -> str:
    """Digest of the tokenizer that a file, a folder or a hub id names.

    Raises:
        ConfigError: there is none.
    """
    path = Path(tokenizer).expanduser()
    if path.is_file():
        return _digest(path.parent, [path])
    if any((path / name).is_file() for name in TOKENIZER_FILES):
        return _digest(path, (p for p in path.iterdir() if "token" in p.name or p.name in TOKENIZER_FILES))
    if not path.exists() and sources.is_hub_id(tokenizer):
        return hub.revision(tokenizer, offline=offline)
    raise ConfigError(
        f"tokenizer = '{tokenizer}': no {TOKENIZER_FILES[0]} there; "
        "write 'stage:<name>', a tokenizer.json, a folder with one, or a hub id"
    )


def _folder_digest(root: Path) -> str:
    if architecture(root) is not None:
        return _digest(root, (root / name for name in _TRAINED))  # receipts, states and evaluations lie beside them
    read_folder(root)
    return _digest(root, (p for p in root.rglob("*") if _matters(p.relative_to(root))))


def _matters(path: Path) -> bool:
    if any(part in _OTHER_RUNTIMES or part.startswith(".") for part in path.parts):
        return False
    sentence = path.name.startswith("sentence_") and path.name.endswith("_config.json")
    return path.suffix in _SUFFIXES or path.name in _NAMES or sentence


def _digest(root: Path, paths: Iterable[Path]) -> str:
    """sha256 over the names and contents of files, in the order of their names below `root`."""
    whole = hashlib.sha256()
    for path in sorted(p for p in paths if p.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(root).as_posix()} {content}\n".encode())
    return whole.hexdigest()
