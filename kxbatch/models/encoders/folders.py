"""What is in a model folder, and whether it can be used. Reads names and small JSON files; loads no weights."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kxbatch.errors import ConfigError, nearest

TOKENIZER_FILES = (
    "tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
TRAINED_ARCHITECTURE = "kxbatch-text-encoder"  # in config.json of what a job trained
MODULE_KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
_SENTENCE_CONFIGS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_CONVERT = (
    "only pickled weights, which kxbatch never opens; convert them once, where you trust them: "
    'python -c "from transformers import AutoModel, AutoTokenizer as T; '
    "AutoModel.from_pretrained('{0}').save_pretrained('NEW'); T.from_pretrained('{0}').save_pretrained('NEW')\""
)


@dataclass(frozen=True)
class Module:
    """A step after the transformer, as a sentence-transformers folder lists it."""

    kind: str
    path: Path

    def config(self) -> dict[str, Any]:
        """Its `config.json`; empty if it has none."""
        return read_json(self.path / "config.json")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a transformer, and what a sentence-transformers folder says besides.

    Attributes:
        root: the folder.
        transformer: the folder with config, weights and tokenizer; often the same.
        modules: steps after the transformer; empty for a raw model.
        max_length: most tokens, if `sentence_bert_config.json` limits them.
        lower_case: texts are lower-cased before the tokenizer.
        prompt: default prompt; empty if none is named.
    """

    root: Path
    transformer: Path
    modules: tuple[Module, ...] = ()
    max_length: int | None = None
    lower_case: bool = False
    prompt: str = ""


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty if the file is absent.

    Raises:
        ConfigError: the file is not a JSON object.
    """
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"'{path}' holds a {type(found).__name__}, expected an object")
    return found


def architecture(root: Path) -> str | None:
    """What a folder says it is, if a job of kxbatch left it; None for models from elsewhere.

    Raises:
        ConfigError: it says something that is not known.
    """
    try:
        named = read_json(root / "config.json").get("architecture")
    except ConfigError:
        return None  # damaged: whoever loads it says so
    if named is not None and named != TRAINED_ARCHITECTURE:
        raise ConfigError(
            f"'{root / 'config.json'}': architecture '{named}' is not known; known is '{TRAINED_ARCHITECTURE}'"
            f"{nearest(str(named), [TRAINED_ARCHITECTURE])}"
        )
    return named


def read_folder(root: Path) -> ModelFolder:
    """Look at a model folder.

    Raises:
        ConfigError: the folder is no model, its weights are not safetensors, or it has a module that is not known.
    """
    listed = _modules(root)
    if not listed:
        _check(root)
        return ModelFolder(root, root)
    if listed[0].kind != "Transformer":
        raise ConfigError(f"'{root}': its first module is '{listed[0].kind}', expected a Transformer")
    transformer = listed[0].path
    _check(transformer)
    return ModelFolder(root, transformer, tuple(listed[1:]), prompt=_prompt(root), **_sentence_config(transformer))


def _modules(root: Path) -> list[Module]:
    path = root / "modules.json"
    if not path.is_file():
        return []
    try:
        rows = [(str(row["type"]), str(row["path"])) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is no list of modules with 'type' and 'path': {error!r}") from error
    found = []
    for name, folder in rows:
        kind = name.rpartition(".")[2]
        if kind not in MODULE_KINDS or not name.startswith("sentence_transformers."):
            raise ConfigError(
                f"'{path}': module '{name}' is not supported; supported are {', '.join(MODULE_KINDS)} "
                f"of sentence-transformers{nearest(kind, MODULE_KINDS)}"
            )
        found.append(Module(kind, root / folder))
    return found


def _sentence_config(transformer: Path) -> dict[str, Any]:
    for name in _SENTENCE_CONFIGS:
        path = transformer / f"sentence_{name}_config.json"
        if path.is_file():
            config = read_json(path)
            task = config.get("transformer_task", "feature-extraction")
            if task != "feature-extraction":
                raise ConfigError(f"'{path}': transformer_task '{task}' gives no token vectors")
            return {
                "max_length": config.get("max_seq_length"),
                "lower_case": bool(config.get("do_lower_case", False)),
            }
    return {}


def _prompt(root: Path) -> str:
    config = read_json(root / "config_sentence_transformers.json")
    name = config.get("default_prompt_name")
    return str(config.get("prompts", {}).get(name) or "") if name else ""


def _check(folder: Path) -> None:
    """Config, safetensors weights and a tokenizer are there."""
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    missing = [] if "config.json" in present else ["config.json"]
    if not has_safetensors(folder):
        pickled = [n for n in present if n.startswith("pytorch_model") and n.endswith(".bin")]
        if pickled and not missing:
            raise ConfigError(f"'{folder}' holds {_CONVERT.format(folder)}")
        missing.append("model.safetensors")
    if not any(name in present for name in TOKENIZER_FILES):
        missing.append("tokenizer.json")
    if missing:
        there = ", ".join(present[:12]) + (", ..." if len(present) > 12 else "") if present else "nothing"
        raise ConfigError(
            f"'{folder}' is no model folder: {', '.join(missing)} missing; expected are config.json, "
            f"model.safetensors and tokenizer.json (or its vocabulary file); there is {there}"
        )


def has_safetensors(folder: Path) -> bool:
    """Whether the weights are there as safetensors, every part of them."""
    if (folder / "model.safetensors").is_file():
        return True
    parts = set(read_json(folder / "model.safetensors.index.json").get("weight_map", {}).values())
    return bool(parts) and all((folder / part).is_file() for part in parts)
