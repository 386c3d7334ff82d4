"""An extractor that was trained here, as a folder: `config.json`, `model.safetensors`, `tokenizer.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import read_json
from kxbatch.models.extraction.extractor import Extractor, HeadConfig, HeadKind
from kxbatch.models.extraction.token_encoder import token_encoder
from kxbatch.models.folder_digest import folder_digest
from kxbatch.models.tokenization import FastTokenizer
from kxbatch.models.trained_text import load_weights

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
ARCHITECTURE = "kxbatch-extractor"


class _Special(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    pad: int
    cls: int
    sep: int
    mask: int


class _Config(BaseModel):
    """What `config.json` must be; anybody may have written it."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    architecture: Literal["kxbatch-extractor"]
    types: list[str] = Field(min_length=1)
    head: HeadKind
    head_size: int = Field(ge=2)
    rope: bool
    head_bias: bool
    max_length: int = Field(ge=4)
    special: _Special
    encoder: dict[str, Any]


@dataclass(frozen=True)
class TrainedExtractor:
    """What `config.json` says.

    Attributes:
        types: names, in the order the head has them.
        head: the head.
        max_length: tokens of a sequence it was trained on, special ones counted.
        special: ids of the special tokens.
        encoder: what `token_encoder` makes one of.
    """

    types: tuple[str, ...]
    head: HeadConfig
    max_length: int
    special: dict[str, int]
    encoder: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return {
            "architecture": ARCHITECTURE,
            "types": list(self.types),
            "head": self.head.kind,
            "head_size": self.head.head_size,
            "rope": self.head.rope,
            "head_bias": self.head.bias,
            "max_length": self.max_length,
            "special": self.special,
            "encoder": self.encoder,
        }

    @classmethod
    def read(cls, folder: Path) -> TrainedExtractor:
        """Of a folder.

        Raises:
            ConfigError: it holds no extractor, or not all of it.
        """
        missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"'{folder}' is no trained extractor: {', '.join(missing)} missing")
        told = read_json(folder / CONFIG)
        if (named := told.get("architecture")) != ARCHITECTURE:
            raise ConfigError(
                f"'{folder / CONFIG}': architecture {named!r} is no extractor; wanted is '{ARCHITECTURE}', which a ner stage leaves"
            )
        try:
            found = _Config.model_validate(told)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise ConfigError(f"'{folder / CONFIG}' is not of an extractor: {where}: {problem['msg']}") from None
        head = HeadConfig(found.head, len(found.types), found.head_size, found.rope, found.head_bias)
        return cls(tuple(found.types), head, found.max_length, found.special.model_dump(), found.encoder)

    def load(self, folder: Path) -> tuple[Extractor, FastTokenizer]:
        """Model and tokenizer of the folder it was read from.

        Raises:
            ConfigError: they do not belong together.
        """
        try:
            model = Extractor(token_encoder(self.encoder), self.head)
        except ConfigError as error:
            raise ConfigError(f"'{folder / CONFIG}': {error}") from None
        load_weights(model, folder)
        return model.eval(), FastTokenizer.read_with(folder / TOKENIZER, self.special)


def extractor_digest(folder: Path) -> str:
    """Of its files: equal content, equal digest."""
    return folder_digest(folder, (CONFIG, WEIGHTS, TOKENIZER))
