"""Which tokens of a tokenizer end and pad sequences: what the files beside it say, or how they are usually spelled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kxbatch.errors import ConfigError

FILES = ("tokenizer_config.json", "special_tokens_map.json")
SEPARATORS = ("[SEP]", "</s>", "<|endoftext|>", "<eos>", "<|end_of_text|>", "<|im_end|>")
PADS = ("[PAD]", "<pad>", "<|pad|>", "<|endoftext|>")


@dataclass(frozen=True)
class SpecialTokens:
    """Spellings.

    Attributes:
        separator: of what ends a part of a key; None for none.
        pad: of what fills up shorter sequences; None for none.
    """

    separator: str | None
    pad: str | None


def find_special_tokens(folder: Path, backend: Any) -> SpecialTokens:
    """Of a tokenizer, by the files of its folder, else by the spellings above.

    Raises:
        ConfigError: a file cannot be read.
    """
    said: dict[str, Any] = {}
    for name in reversed(FILES):
        said |= _read(folder / name) if (folder / name).is_file() else {}
    separator = _spelled(said.get("sep_token")) or _spelled(said.get("eos_token"))
    pad = _spelled(said.get("pad_token"))
    return SpecialTokens(separator or _first(SEPARATORS, backend), pad or _first(PADS, backend))


def _spelled(value: Any) -> str | None:
    """A token is written as its text, or as a table with it."""
    return value.get("content") if isinstance(value, dict) else value


def _first(spellings: tuple[str, ...], backend: Any) -> str | None:
    return next((spelling for spelling in spellings if backend.token_to_id(spelling) is not None), None)


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"'{file}' is no JSON: {error}") from None
    return found if isinstance(found, dict) else {}
